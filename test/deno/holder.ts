/**
 * A Deno program that has a disk open for writing until it is ended: `deno run … holder.ts
 * OVERLAY`; or a worker, to which the overlay's path is posted.
 */
import { openDisk } from '../../hosts/deno/index.ts';

if (Deno.mainModule === import.meta.url) {
  const disk = await openDisk({ overlay: Deno.args[0] });
  console.log('open');
  // Until standard input ends.
  await Deno.stdin.read(new Uint8Array(1));
  await disk.close();
} else {
  const scope = globalThis as unknown as Worker;
  scope.onmessage = async ({ data }) =>
    scope.postMessage(`open: ${(await openDisk({ overlay: data })).size}`);
}
