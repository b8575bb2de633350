/**
 * Reads 4 KiB at random places of a small disk that is in the page cache, and prints microseconds a
 * read as JSON: `requests-program.mjs LIBRARY OVERLAY`.
 */
import process from 'node:process';
import { pathToFileURL } from 'node:url';

const MIB = 1024 * 1024;
const DISK_BYTES = 64 * MIB;
const READ_BYTES = 4096;
const READS = 60_000;

const [library, overlay] = process.argv.slice(2);
const { createDisk } = await import(pathToFileURL(library).href);
const disk = await createDisk({ overlay, size: DISK_BYTES });
for (let at = 0; at < DISK_BYTES; at += MIB) await disk.write(at, new Uint8Array(MIB).fill(1));
await disk.flush();
let state = 1;
const place = () => {
  state = (Math.imul(state, 1103515245) + 12345) >>> 0;
  return (state % (DISK_BYTES / READ_BYTES)) * READ_BYTES;
};
const microseconds = async (depth) => {
  let left = READS;
  const lane = async () => {
    while (left-- > 0) await disk.read(place(), READ_BYTES);
  };
  const startMs = performance.now();
  await Promise.all(Array.from({ length: depth }, lane));
  return ((performance.now() - startMs) * 1000) / READS;
};
// What is compiled while it runs is compiled then.
await microseconds(16);
console.log(JSON.stringify({ one: await microseconds(1), sixteen: await microseconds(16) }));
await disk.close();
