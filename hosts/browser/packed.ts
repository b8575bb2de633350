/**
 * The worker's program and the engine as text in modules of their own, which a page loads when it
 * opens its first disk. So no bundler has to know that there is a worker, or a file of wasm.
 */
import { startScript } from './script.ts';

let script: Promise<string> | undefined;

/** One address serves all disks of the page. */
export async function startOwnWorker(): Promise<Worker> {
  script ??= import('millrace:worker')
    .then((packed) => unpack(packed.default))
    .then((bytes) => URL.createObjectURL(new Blob([bytes], { type: 'text/javascript' })));
  return startScript(await script);
}

export async function ownEngine(): Promise<Uint8Array> {
  return unpack((await import('millrace:engine')).default);
}

/** Base64 of what gzip made. */
async function unpack(packed: string): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}
