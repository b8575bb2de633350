/**
 * Disks over the same source that comes in order share one pass of it: what one of them has waited
 * for is there for the others, and is fetched once.
 */
import type { BlockSource, ContainerInfo, ReadHint } from '../../api/block.ts';
import type { UnpackOptions } from '../../api/runtime.ts';
import { Pass } from './pass.ts';

interface Entry {
  opening: Promise<BlockSource>;
  users: number;
}

export class SharedPasses {
  readonly #entries = new Map<string, Entry>();

  /**
   * What `open` makes of a source, or a pass of the same that is under way: then the source is
   * closed. What nothing identifies is shared with nobody.
   */
  async open(
    source: BlockSource,
    options: UnpackOptions,
    open: () => Promise<BlockSource>,
  ): Promise<BlockSource> {
    const { name, identity, size } = source;
    if (name === undefined || identity === undefined) return open();
    const { member, asIs, sizeMax, unmeasured } = options;
    const key = JSON.stringify([name, identity, size, member, asIs, sizeMax, unmeasured]);
    const present = this.#entries.get(key);
    if (present !== undefined) {
      present.users++;
      const pass = await present.opening.catch(() => undefined);
      if (pass instanceof Pass) {
        const seat = this.#seat(key, present, pass);
        await source.close();
        return seat;
      }
      this.#leave(key, present);
      return open();
    }
    const entry: Entry = { opening: open(), users: 1 };
    this.#entries.set(key, entry);
    try {
      const opened = await entry.opening;
      if (opened instanceof Pass) return this.#seat(key, entry, opened);
      this.#forget(key, entry);
      return opened;
    } catch (error) {
      this.#forget(key, entry);
      throw error;
    }
  }

  #seat(key: string, entry: Entry, pass: Pass): BlockSource {
    return new Seat(pass, async () => {
      if (this.#leave(key, entry)) await pass.close();
    });
  }

  /** Whether that was the last one. */
  #leave(key: string, entry: Entry): boolean {
    if (--entry.users > 0) return false;
    this.#forget(key, entry);
    return true;
  }

  #forget(key: string, entry: Entry): void {
    if (this.#entries.get(key) === entry) this.#entries.delete(key);
  }
}

/** A pass for one user of it. */
class Seat implements BlockSource {
  readonly name: string | undefined;
  readonly identity: string | undefined;
  readonly preferred: { chunk: number; depth: number };
  readonly #pass: Pass;
  readonly #leave: () => Promise<void>;
  #left: Promise<void> | undefined;

  constructor(pass: Pass, leave: () => Promise<void>) {
    this.name = pass.name;
    this.identity = pass.identity;
    this.preferred = pass.preferred;
    this.#pass = pass;
    this.#leave = leave;
  }

  get size(): number {
    return this.#pass.size;
  }

  get container(): ContainerInfo {
    return this.#pass.container;
  }

  get measure(): (() => Promise<number>) | undefined {
    return this.#pass.measure;
  }

  read(offset: number, into: Uint8Array, hint?: ReadHint): Promise<void> {
    return this.#pass.read(offset, into, hint);
  }

  verify(signal?: AbortSignal): Promise<void> {
    return this.#pass.verify(signal);
  }

  close(): Promise<void> {
    return (this.#left ??= this.#leave());
  }
}
