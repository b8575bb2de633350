/**
 * Disks over HTTP by `Deno.serve`:
 * `deno run --allow-read --allow-write --allow-net fetch-deno.ts vm.qcow2 URL`
 */
import { createHandler, openDisk } from 'millrace/deno';

const [overlay = 'vm.qcow2', base = 'https://images.example/debian.qcow2'] = Deno.args;

const disk = await openDisk({ overlay, create: { base } });
const handler = createHandler({ disks: { vda: disk }, token: 'secret' });
const server = Deno.serve({
  hostname: '127.0.0.1',
  port: 0,
  onListen: ({ hostname, port }) => console.log(`http://${hostname}:${port}/disks/vda`),
  handler,
});
Deno.addSignalListener('SIGTERM', async () => {
  await server.shutdown();
  await disk.close();
  Deno.exit();
});
