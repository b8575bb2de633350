/**
 * A script in Deno (`deno add npm:millrace`), a machine's disk over an image elsewhere:
 * `deno run --allow-read --allow-write --allow-net script-deno.ts vm.qcow2 URL`
 */
import { openDisk } from 'millrace/deno';

const [overlay = 'vm.qcow2', base = 'https://images.example/debian.qcow2'] = Deno.args;

await using disk = await openDisk({ overlay, create: { base } });
await disk.read(0, 512); // fetched now, kept in the overlay
const { remaining } = await disk.stream(); // Ctrl-C, and go on later
console.log(`${disk.size} bytes, ${remaining} of them elsewhere`);
