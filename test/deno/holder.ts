/** A Deno program that has a disk open for writing until it is ended: `deno run … holder.ts OVERLAY`. */
import { openDisk } from '../../hosts/deno/index.ts';

const disk = await openDisk({ overlay: Deno.args[0] });
console.log('open');
// Until standard input ends.
await Deno.stdin.read(new Uint8Array(1));
await disk.close();
