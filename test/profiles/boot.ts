/**
 * A guest that boots, under a clock that only the test moves: it reads places of its disk one after
 * another, thinks in between, and the base is at the end of a line with a round trip and a rate.
 */
import type { Disk } from '../../hosts/api/disk.ts';
import type { CreateOptions } from '../../hosts/api/open.ts';
import type { RecordedProfile, ReplayInfo } from '../../hosts/api/profile.ts';
import { makeContent, Random } from '../fixtures/content.ts';
import type { Operation, Perform } from '../support/faulty.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import type { VirtualClock } from '../support/virtual-clock.ts';
import { turn } from '../support/virtual-clock.ts';

// It is loaded when a profile is first read, which would take time of another clock.
await import('pako');

export const KIB = 1024;
export const MIB: number = 1024 * KIB;
export const CLUSTER: number = 64 * KIB;

/** One read of a guest, and what it does before. */
export interface Step {
  offset: number;
  length: number;
  thinkMs: number;
}

/** A line: requests go there in half a round trip, and their bytes come back one after another. */
export class Line {
  /** Reads of the base, in the order in which they were sent. */
  readonly sent: (Operation & { ahead: boolean })[] = [];
  readonly #clock: VirtualClock;
  readonly #roundTripMs: number;
  readonly #bytesPerMs: number;
  #freeAt = 0;

  constructor(clock: VirtualClock, roundTripMs: number, bitsPerSecond: number) {
    this.#clock = clock;
    this.#roundTripMs = roundTripMs;
    this.#bytesPerMs = bitsPerSecond / 8000;
  }

  carry(operation: Operation, perform: Perform): Promise<void> {
    this.sent.push(operation as Operation & { ahead: boolean });
    const half = this.#roundTripMs / 2;
    const begins = Math.max(this.#clock.now() + half, this.#freeAt);
    this.#freeAt = begins + operation.length / this.#bytesPerMs;
    const comes = this.#freeAt + half;
    return new Promise((resolve, reject) => {
      this.#clock.after(comes - this.#clock.now(), () => {
        Promise.resolve(perform()).then(resolve, reject);
      });
    });
  }
}

export interface Booted {
  /** How long the boot took. */
  ms: number;
  /** Reads that took any time. */
  waits: number;
  line: Line;
  recorded?: RecordedProfile;
  replayed?: ReplayInfo;
}

/** A boot of `reads` places among `diskSize` bytes. */
export function makeBoot(seed: number, reads: number, diskSize: number): Step[] {
  const random = new Random(seed);
  return Array.from({ length: reads }, () => ({
    offset: random.between(0, diskSize / 4096 - 32) * 4096,
    length: random.between(1, 32) * 4096,
    thinkMs: random.between(0, 20),
  }));
}

export interface BootOptions extends Partial<CreateOptions> {
  roundTripMs?: number;
  bitsPerSecond?: number;
  /** What is done with the disk when it is open, before the guest begins. */
  before?: (disk: Disk) => Promise<unknown>;
  /** And when it has booted. */
  after?: (disk: Disk, machine: Machine) => Promise<unknown>;
}

/** The disk of a machine, and the time that passes for it. */
export class Machine {
  readonly runtime: MemoryRuntime = new MemoryRuntime();
  readonly content: Uint8Array;
  line: Line | undefined;
  /** Base reads that fail. */
  fails: (operation: Operation) => Error | undefined = () => undefined;

  constructor(diskSize: number) {
    this.content = makeContent('random', 7, diskSize);
    this.runtime.add('base.raw', this.content);
    this.runtime.remote = { chunk: MIB, depth: 8 };
    this.runtime.plan = (operation, perform) => {
      if (operation.file !== 'base.raw' || operation.kind !== 'read' || !this.line)
        return perform();
      const error = this.fails(operation);
      return error ? Promise.reject(error) : this.line.carry(operation, perform);
    };
  }

  /** Lets time pass until something has come. */
  async until<T>(promise: Promise<T>): Promise<T> {
    let over = false;
    const end = (): void => void (over = true);
    promise.then(end, end);
    for (;;) {
      for (let i = 0; i < 4 && !over; i++) await turn();
      if (over) return promise;
      const { clock } = this.runtime;
      if (clock.next === undefined) throw new Error('nothing more is going to happen');
      clock.advance(clock.next - clock.now());
    }
  }

  async boot(steps: readonly Step[], options: BootOptions = {}): Promise<Booted> {
    const { roundTripMs = 50, bitsPerSecond = 200e6, before, after, ...create } = options;
    const { clock } = this.runtime;
    this.runtime.files.delete('overlay.qcow2');
    this.line = undefined;
    const disk = await this.runtime.create({
      overlay: 'overlay.qcow2',
      base: 'base.raw',
      clusterSize: CLUSTER,
      ...create,
    });
    const line = (this.line = new Line(clock, roundTripMs, bitsPerSecond));
    const replayed = before?.(disk);
    // A profile that was given is looked through, which takes no time.
    for (let i = 0; i < 20; i++) await turn();
    const begun = clock.now();
    let waits = 0;
    for (const { offset, length, thinkMs } of steps) {
      await this.#think(thinkMs);
      const at = clock.now();
      const bytes = await this.until(disk.read(offset, length));
      if (Buffer.compare(bytes, this.content.subarray(offset, offset + length)) !== 0)
        throw new Error(`wrong bytes at ${offset}`);
      if (clock.now() > at) waits++;
    }
    const ms = clock.now() - begun;
    await after?.(disk, this);
    const recorded = create.record ? await disk.profile() : undefined;
    const closing = disk.close();
    await this.until(closing);
    const info = (await replayed) as ReplayInfo | undefined;
    return { ms, waits, line, recorded, replayed: info };
  }

  /** Time passes, and what comes meanwhile comes. */
  async #think(ms: number): Promise<void> {
    const { clock } = this.runtime;
    const end = clock.now() + ms;
    for (;;) {
      for (let i = 0; i < 4; i++) await turn();
      if (clock.now() >= end) return;
      clock.advance(Math.min(end, clock.next ?? end) - clock.now());
    }
  }
}
