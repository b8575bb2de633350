/**
 * Streams a base with one build of the library and prints the seconds: `stream-program.mjs LIBRARY
 * OVERLAY BASE`, under Node or Deno.
 */
import process from 'node:process';
import { pathToFileURL } from 'node:url';

const [library, overlay, base] = process.argv.slice(2);
const { createDisk } = await import(pathToFileURL(library).href);
const startMs = performance.now();
const disk = await createDisk({ overlay, base });
await disk.stream();
const seconds = (performance.now() - startMs) / 1000;
await disk.close();
console.log(seconds);
