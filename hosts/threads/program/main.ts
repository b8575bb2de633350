/**
 * The program of a thread. It is bundled into a text (hosts/decoders.mjs), because it has to start
 * from wherever the module that starts it is run: from TypeScript sources (Node 20 runs no .ts file
 * in a thread), from dist, or from a user's bundle (which has no file beside it).
 */
import { readlinkSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { basename } from 'node:path';
import process from 'node:process';
import { parentPort, workerData } from 'node:worker_threads';
import type { FromThread, ThreadSetup, ToThread } from '../messages.ts';
import { Batches } from './batches.ts';
import { Decodings } from './decodings.ts';

/** Of threads that could run, the one with the event loop is to: guests wait for it. */
const NICENESS = 10;

const port = parentPort!;
const batches = new Batches(workerData as ThreadSetup);
const decodings = new Decodings(answer);

standBack();

/** Where threads have priorities of their own, and asking for one needs no permission. */
function standBack(): void {
  if (process.platform !== 'linux' || 'Deno' in globalThis || 'Bun' in globalThis) return;
  try {
    const thread = Number(basename(readlinkSync('/proc/thread-self')));
    setPriority(thread, Math.max(getPriority(thread), NICENESS));
  } catch {
    // Without /proc it works as before.
  }
}

function answer(message: FromThread): void {
  const buffers =
    message.kind === 'batch' ? [message.input, message.output] : [message.output.buffer];
  port.postMessage(message, buffers);
}

port.on('message', async (message: ToThread) => {
  if (message.kind === 'batch') answer(await batches.done(message));
  else decodings.take(message);
});
