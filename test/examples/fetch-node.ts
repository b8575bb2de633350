/** Disks over HTTP by `node:http`; a server of one's own takes `nodeListener(handler)`. */
import { createHandler, listen, openDisk } from 'millrace';

const [overlay = 'vm.qcow2', base = 'https://images.example/debian.qcow2'] = process.argv.slice(2);

const disk = await openDisk({ overlay, create: { base } });
const handler = createHandler({ disks: { vda: disk }, token: process.env.TOKEN ?? 'secret' });
const { url, close } = await listen(handler, { port: 0 });
console.log(`${url}/disks/vda`);
process.once('SIGTERM', async () => {
  await close();
  await disk.close();
});
