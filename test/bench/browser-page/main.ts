/**
 * The page that times streaming into a browser's storage: runs both ways by itself, in turn, and
 * sends the seconds of each to the address in its query. It is not driven from outside: a
 * debugger that looks on keeps a copy of every answer, and slows all down.
 */
import { createDisk, deleteDisk } from '../../../hosts/browser/index.ts';

/** What the page sends. */
export interface Seconds {
  ours: number[];
  loop: number[];
}

const RUNS = 3;
const IMAGE = new URL('/base.raw', location.href).href;
const LOOP_FILE = 'loop.raw';

/** From creating an overlay to its close, when it stands alone. */
async function stream(): Promise<void> {
  const disk = await createDisk({ overlay: 'bench', base: IMAGE, baseFormat: 'raw' });
  await disk.stream();
  await disk.close();
}

/**
 * From starting a worker to the end of its loop: what is fetched is written as it comes, flushed
 * and closed.
 */
async function loop(): Promise<void> {
  const worker = new Worker(new URL('./loop.ts', import.meta.url), { type: 'module' });
  const ended = new Promise((resolve, reject) => {
    worker.onmessage = resolve;
    worker.onerror = (event) => reject(new Error(event.message));
  });
  worker.postMessage({ image: IMAGE, file: LOOP_FILE });
  await ended;
  worker.terminate();
}

async function seconds(work: () => Promise<void>, tidy: () => Promise<void>): Promise<number> {
  const startMs = performance.now();
  await work();
  const taken = (performance.now() - startMs) / 1000;
  await tidy();
  return taken;
}

const removeDisk = (): Promise<void> => deleteDisk('bench');
const removeFile = async (): Promise<void> =>
  (await navigator.storage.getDirectory()).removeEntry(LOOP_FILE);

async function measure(): Promise<Seconds> {
  const runs: Seconds = { ours: [], loop: [] };
  // One of each first, which is not counted: what the browser starts only once is then started.
  for (let run = 0; run <= RUNS; run++) {
    const [loopTook, oursTook] = [
      await seconds(loop, removeFile),
      await seconds(stream, removeDisk),
    ];
    if (run === 0) continue;
    runs.loop.push(loopTook);
    runs.ours.push(oursTook);
  }
  return runs;
}

const report = new URLSearchParams(location.search).get('report')!;
const result = await measure().catch((error: Error) => ({ error: error.message }));
await fetch(report, { method: 'POST', mode: 'no-cors', body: JSON.stringify(result) });
