/** How a thread is started, and how it is ended without being cut off in work. */
import { Worker } from 'node:worker_threads';
import { brotliDecompressSync } from 'node:zlib';
import type { ThreadSetup } from './messages.ts';
import { AT_WORK, CLOSED, FREE } from './messages.ts';
import packed from './program.js';

/**
 * They hold hardly anything but buffers: with less room for young objects, each takes 5 to 12 MB
 * less and is as quick.
 */
const YOUNG_GENERATION_MB = 2;
/** A cluster takes a few milliseconds at most: a thread that takes longer has died in it. */
const CLOSE_MS_MAX = 250;

let program: string | undefined;

/** Starts one; `gate` tells whether it is at work, and keeps it from beginning. */
export function startWorker(workerData: ThreadSetup): Worker {
  const { gate } = workerData;
  const resourceLimits = { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB };
  program ??= brotliDecompressSync(Buffer.from(packed, 'base64')).toString();
  // Without the flags of the process: its loaders are not for this program.
  const worker = new Worker(program, {
    eval: true,
    name: 'millrace codec',
    workerData,
    resourceLimits,
    execArgv: [],
  });
  closeGatesAtExit();
  openGates.add(gate);
  worker.on('exit', () => openGates.delete(gate));
  return worker;
}

/** Of the threads that live. */
const openGates = new Set<Int32Array>();

/** The end of the process ends its threads, too. */
let closesGatesAtExit = false;
function closeGatesAtExit(): void {
  if (closesGatesAtExit) return;
  closesGatesAtExit = true;
  // The global one: the module node:process would load the terminal's streams with it.
  process.once('exit', () => openGates.forEach(closeGate));
}

/** Returns when the thread does nothing; from now on it never does. */
export function closeGate(gate: Int32Array): void {
  const deadline = Date.now() + CLOSE_MS_MAX;
  while (Atomics.compareExchange(gate, 0, FREE, CLOSED) === AT_WORK && Date.now() < deadline) {
    Atomics.wait(gate, 0, AT_WORK, CLOSE_MS_MAX);
  }
}
