/**
 * The program of a thread. It is bundled into a text (hosts/decoders.mjs), because it has to start
 * from wherever the module that starts it is run: from TypeScript sources (Node 20 runs no .ts file
 * in a thread), from dist, or from a user's bundle (which has no file beside it).
 */
import { parentPort, workerData } from 'node:worker_threads';
import type { FromThread, ThreadSetup, ToThread } from '../messages.ts';
import { Batches } from './batches.ts';
import { Decodings } from './decodings.ts';

const port = parentPort!;
const batches = new Batches(workerData as ThreadSetup);
const decodings = new Decodings(answer);

function answer(message: FromThread): void {
  const buffers =
    message.kind === 'batch' ? [message.input, message.output] : [message.output.buffer];
  port.postMessage(message, buffers);
}

port.on('message', async (message: ToThread) => {
  if (message.kind === 'batch') answer(await batches.done(message));
  else decodings.take(message);
});
