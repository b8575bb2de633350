/**
 * Streams a base with one build of the library, under Node or Deno, and prints what that took as
 * JSON: `stream-program.mjs LIBRARY OVERLAY BASE`, and `loop` behind it to watch the event loop.
 */
import process from 'node:process';
import { pathToFileURL } from 'node:url';

const [library, overlay, base, watched] = process.argv.slice(2);
const { createDisk } = await import(pathToFileURL(library).href);
const loop = watched === 'loop' ? await watch() : undefined;
const startMs = performance.now();
const cpuBefore = process.cpuUsage();
const disk = await createDisk({ overlay, base });
loop?.enable();
await disk.stream();
loop?.disable();
const seconds = (performance.now() - startMs) / 1000;
const { user, system } = process.cpuUsage(cpuBefore);
await disk.close();
console.log(
  JSON.stringify({
    seconds,
    cpuSeconds: (user + system) / 1e6,
    ...(loop && { p99Ms: loop.percentile(99) / 1e6, maxMs: loop.max / 1e6 }),
  }),
);

async function watch() {
  const { monitorEventLoopDelay } = await import('node:perf_hooks');
  return monitorEventLoopDelay({ resolution: 1 });
}
