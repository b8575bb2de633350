/**
 * A script in Node or Bun, a machine's disk over an image elsewhere: `bun script.ts vm.qcow2 URL`
 */
import { createDisk, openDisk } from 'millrace';

const [overlay = 'vm.qcow2', base = 'https://images.example/debian.qcow2'] = process.argv.slice(2);

{
  await using disk = await createDisk({ overlay, base });
  const sector = await disk.read(0, 512); // fetched now, kept in the overlay
  await disk.write(4096, sector);
  await disk.flush();
}
// Later, in another process:
await using disk = await openDisk({ overlay, create: { base } });
const { remaining } = await disk.stream({
  onProgress: ({ remaining }) => console.error(`${remaining} bytes left`),
});
console.log(`${disk.size} bytes, ${remaining} of them elsewhere`);
