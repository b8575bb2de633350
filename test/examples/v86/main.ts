/** A machine in a page of one's own, its disk over an image on a server: `vite` in this folder. */
import { openDisk } from 'millrace/browser';
import { attachDisk } from 'millrace/v86';
import { V86 } from 'v86';
import wasm from 'v86/build/v86.wasm?url';

const disk = await openDisk({ overlay: 'vm', create: { base: '/guest.raw' } });
const hda = await attachDisk(disk);
const machine = new V86({
  wasm_path: wasm,
  // SeaBIOS, served with the page: both are of Debian's package seabios, in /usr/share/seabios.
  bios: { url: '/bios.bin' },
  vga_bios: { url: '/vgabios-stdvga.bin' },
  memory_size: 128 * 1024 * 1024,
  autostart: true,
  disable_keyboard: true, // keys go to the serial port
  hda,
});
hda.pace(machine); // it stands still while its disk cannot follow
machine.add_listener('serial0-output-byte', (byte) => {
  document.body.append(String.fromCharCode(byte));
});
document.addEventListener('keypress', ({ key }) => {
  machine.serial0_send(key === 'Enter' ? '\n' : key);
});
await disk.stream({ nonblock: true });
