/**
 * A runtime whose files are in memory and whose clock stands still until it is moved: with it, what
 * a disk does is decided by the test alone.
 */
import { readFile } from 'node:fs/promises';
import type { BlockFile, BlockSource } from '../../hosts/api/block.ts';
import type { Codec } from '../../hosts/api/codec.ts';
import type { Disk } from '../../hosts/api/disk.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { CreateOptions, OpenOptions } from '../../hosts/api/open.ts';
import type { OverlayMode, Runtime } from '../../hosts/api/runtime.ts';
import { createDiskWith, openDiskWith } from '../../hosts/disk/open.ts';
import { inlineCodec } from '../../hosts/node/inline-codec.ts';
import type { Plan } from './faulty.ts';
import { FaultyFile, FaultySource } from './faulty.ts';
import { MemoryFile } from './memory-file.ts';
import { VirtualClock } from './virtual-clock.ts';

let engine: Promise<WebAssembly.Module> | undefined;

export class MemoryRuntime implements Runtime {
  readonly clock: VirtualClock = new VirtualClock();
  readonly codec: Codec = inlineCodec();
  /** The files, by name; images name each other by these names. */
  readonly files: Map<string, MemoryFile> = new Map();
  /** What becomes of every operation on them; undefined lets all through, at once. */
  plan: Plan | undefined;
  /** How sources say they like to be read: a remote one says so. */
  remote: { chunk: number; depth: number } | undefined;

  engine(): Promise<WebAssembly.Module> {
    return (engine ??= readFile(new URL('../../hosts/engine.wasm', import.meta.url)).then((bytes) =>
      WebAssembly.compile(bytes),
    ));
  }

  /** Puts a file there. */
  add(name: string, bytes?: Uint8Array): MemoryFile {
    const file = new MemoryFile(name, bytes);
    this.files.set(name, file);
    return file;
  }

  file(name: string): MemoryFile {
    const file = this.files.get(name);
    if (file === undefined) throw new MillraceError('ENOENT', `there is no file '${name}'`);
    return file;
  }

  async openOverlay(name: string, mode: OverlayMode): Promise<BlockFile> {
    if (mode.create && this.files.has(name))
      throw new MillraceError('EEXIST', `'${name}' is there already`);
    const file = mode.create ? new MemoryFile(name) : this.file(name);
    const publish = async (): Promise<void> => void this.files.set(name, file);
    return Object.assign(
      new FaultyFile(file, (operation, perform) => this.#perform(operation, perform)),
      mode.create ? { publish } : {},
    );
  }

  async openSource(location: string | URL): Promise<BlockSource> {
    const source = new FaultySource(this.file(String(location)), (operation, perform) =>
      this.#perform(operation, perform),
    );
    return this.remote ? Object.assign(source, { preferred: this.remote }) : source;
  }

  readonly #perform: Plan = (operation, perform) =>
    this.plan ? this.plan(operation, perform) : perform();

  resolve(name: string): string {
    return name;
  }

  record(base: string): string {
    return base;
  }

  create(options: CreateOptions): Promise<Disk> {
    return createDiskWith(this, options);
  }

  open(options: OpenOptions): Promise<Disk> {
    return openDiskWith(this, options);
  }
}
