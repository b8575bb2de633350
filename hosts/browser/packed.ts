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

/** Z85 of what gzip made, as hosts/build.mjs writes it. */
async function unpack(packed: string): Promise<Uint8Array<ArrayBuffer>> {
  const unpacked = new Blob([unz85(packed)]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

const Z85 = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#';

function unz85(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(((text.length - 1) / 5) * 4);
  const view = new DataView(bytes.buffer);
  const digits = new Map(Array.from(Z85, (character, digit) => [character, digit]));
  for (let from = 1, to = 0; from < text.length; to += 4) {
    let value = 0;
    for (let place = 0; place < 5; place++) value = value * 85 + digits.get(text[from++])!;
    view.setUint32(to, value);
  }
  return bytes.subarray(0, bytes.length - Number(text[0]));
}
