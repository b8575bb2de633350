/** A base of one's own: a disk over bytes that a program has. */
import type { BlockSource } from 'millrace';
import { createDisk } from 'millrace';

const bytes = new Uint8Array(1024 * 1024).fill(7);
const base: BlockSource = {
  size: bytes.length,
  name: 'my object',
  identity: 'etag "1"', // an overlay refuses the base when this has changed
  read: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
  close() {},
};
await using disk = await createDisk({ overlay: process.argv[2] ?? 'vm.qcow2', base });
const [first] = await disk.read(4096, 1);
console.log(`${disk.size} bytes, of which one is ${first}`);
