/**
 * A machine's disk by NBD:
 * `qemu-system-x86_64 -drive file=nbd+unix:///vda?socket=PATH,format=raw`
 */
import { openDisk } from 'millrace';
import { listenNbd, NbdServer } from 'millrace/nbd';

const [socket = 'vm.sock', overlay = 'vm.qcow2', base = 'https://images.example/debian.qcow2'] =
  process.argv.slice(2);

const disk = await openDisk({ overlay, create: { base } });
const listening = await listenNbd(new NbdServer({ vda: disk }), { path: socket });
const streamed = disk.stream({ nonblock: true });
console.log(`nbd+unix:///vda?socket=${socket}`);
process.once('SIGTERM', async () => {
  await listening.close();
  await streamed;
  await disk.close();
});
