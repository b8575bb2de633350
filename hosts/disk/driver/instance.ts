/** One instance of the engine, with its memory: what it exports, and how it is made. */
import { INTERFACE_VERSION } from '../../../engine/protocol.ts';
import { MillraceError } from '../../api/errors.ts';

/** Of WebAssembly memory. */
export const PAGE_BYTES = 65536;

/** What the engine exports; engine/README.md documents each. */
export interface Exports {
  version(): number;
  init(bytes: number): number;
  submissions(): number;
  completions(): number;
  setFile(image: number, bytes: number, tellsHoles: boolean): number;
  setPart(file: number, image: number, start: number, length: number, at: number): number;
  setUse(copyOnRead: boolean, readAhead: boolean, trims: boolean, flushesDear: boolean): void;
  text(): number;
  setBacking(name: number, format: number, identity: number): number;
  backingHasRoom(): number;
  image(index: number): number;
  imageAtDepth(depth: number): number;
  headerPage(index: number): number;
  requestBytesMax(): number;
  request(kind: number, tag: number, offset: number, length: number, argument: number): number;
  step(completed: number, now: number): number;
  submitted(): number;
  wakeAt(): number;
  stream(
    offset: number,
    length: number,
    speed: number,
    onError: number,
    keepBase: boolean,
    full: boolean,
    bottom: number,
    keepCompressed: boolean,
    ordered: boolean,
  ): number;
  streamNext(offset: number, length: number): number;
  checked(): number;
  abort(): number;
  info(): number;
  pause(): number;
  resume(): number;
  setSpeed(bytesPerSecond: number): number;
  clusterSize(): number;
}

/** The engine as it runs, with its memory. */
export interface Instance {
  readonly exports: Exports;
  readonly memory: ArrayBuffer;
  /** The memory as the ring has it. */
  readonly words: Uint32Array;
}

/**
 * Makes an engine, with a memory of its own. Apart from what uses it: what is made in one function
 * holds all that the others made there need, so that a closed engine would go on holding its
 * memory.
 */
export function instantiate(
  module: WebAssembly.Module,
  memoryBytes: number,
  onBroken: (error: MillraceError) => void,
): Instance {
  const pages = Math.floor(memoryBytes / PAGE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  const trap = (file: number, bytes: number, line: number, column: number): void => {
    const name = new TextDecoder('utf-16le').decode(new Uint8Array(memory.buffer, file, bytes));
    onBroken(
      new MillraceError(
        'EIO',
        `the engine stopped at an assertion (${name}, line ${line}, column ${column}): please report it`,
        { reason: 'engine-failed' },
      ),
    );
  };
  const instance = new WebAssembly.Instance(module, { env: { memory }, host: { trap } });
  const exports = instance.exports as unknown as Exports;
  if (exports.version() !== INTERFACE_VERSION)
    throw new MillraceError('EINVAL', 'the engine has another version than its host');
  if (!exports.init(memory.buffer.byteLength))
    throw new MillraceError('EINVAL', `${memoryBytes} bytes are too little memory for a disk`);
  return { exports, memory: memory.buffer, words: new Uint32Array(memory.buffer) };
}
