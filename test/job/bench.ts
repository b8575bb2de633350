/**
 * What the tests of jobs share: a disk in memory over a base in memory, whose every operation can
 * be held, counted or failed, and a clock that only the test moves.
 */
import type { Disk } from '../../hosts/api/disk.ts';
import type { JobTarget } from '../../hosts/api/disk-events.ts';
import { DISK_EVENTS } from '../../hosts/api/disk-events.ts';
import type { StreamInfo } from '../../hosts/api/job.ts';
import type { CreateOptions } from '../../hosts/api/open.ts';
import { makeContent } from '../fixtures/content.ts';
import type { Held, Operation, Perform } from '../support/faulty.ts';
import { Holding } from '../support/faulty.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { turn } from '../support/virtual-clock.ts';

export const KIB = 1024;
export const MIB: number = 1024 * KIB;
export const CLUSTER: number = 64 * KIB;

export class Bench {
  readonly runtime: MemoryRuntime = new MemoryRuntime();
  readonly holding: Holding = new Holding();
  /** Every operation so far. */
  readonly operations: Operation[] = [];
  /** Whether an operation is held until the test lets it go. */
  holds: (operation: Operation) => boolean = () => false;
  /** The error that an operation ends with, if it is to fail. */
  fails: (operation: Operation) => Error | undefined = () => undefined;
  /** What a disk has told, in order, since `listen`. */
  readonly events: { type: string; detail: StreamInfo }[] = [];

  constructor() {
    this.runtime.plan = (operation, perform) => this.#meet(operation, perform);
  }

  #meet(operation: Operation, perform: Perform): void | Promise<void> {
    this.operations.push(operation);
    const error = this.fails(operation);
    if (error) throw error;
    return this.holds(operation) ? this.holding.plan(operation, perform) : perform();
  }

  /** A raw base of random content, by name. */
  addBase(length: number, name = 'base.raw', seed = 1): Uint8Array {
    const content = makeContent('random', seed, length);
    this.runtime.add(name, content);
    return content;
  }

  /** An overlay over a base; its events are noted. */
  async create(options: Partial<CreateOptions> = {}): Promise<Disk> {
    const disk = await this.runtime.create({
      overlay: 'overlay.qcow2',
      base: 'base.raw',
      clusterSize: CLUSTER,
      ...options,
    });
    this.listen(disk);
    this.operations.length = 0;
    return disk;
  }

  listen(disk: JobTarget<StreamInfo>): void {
    for (const type of DISK_EVENTS)
      disk.addEventListener(type, ({ detail }) => this.events.push({ type, detail }));
  }

  /** The types of the events so far, without progress. */
  get told(): string[] {
    return this.events.map(({ type }) => type).filter((type) => type !== 'progress');
  }

  /** Operations of a kind on a file, so far. */
  of(kind: Operation['kind'], file: string): Operation[] {
    return this.operations.filter(
      (operation) => operation.kind === kind && operation.file === file,
    );
  }

  get held(): Held[] {
    return this.holding.held;
  }

  /** Lets everything run that waits for nothing but promises. */
  async settle(): Promise<void> {
    for (let round = 0; round < 8; round++) await turn();
  }

  /** Moves the clock in small steps, so that a job does in between what its speed allows. */
  async pass(ms: number, step = 10): Promise<void> {
    for (let passed = 0; passed < ms; passed += step) {
      this.runtime.clock.advance(Math.min(step, ms - passed));
      await this.settle();
    }
  }

  /**
   * What a job would still have to fetch, had the process been killed now: what has been written to
   * the files stays.
   */
  async missingAfterKill(): Promise<number> {
    const after = new MemoryRuntime();
    for (const [name, file] of this.runtime.files) after.add(name, file.bytes);
    const disk = await after.open({ overlay: 'overlay.qcow2', base: 'base.raw' });
    const missing = await disk.remaining();
    await disk.close();
    return missing;
  }

  /**
   * Bytes of the base file that were read more than once, apart from its first sectors, which tell
   * its format.
   */
  readTwice(file: string, size: number): number {
    const times = new Uint8Array(Math.ceil(size / 512));
    for (const { offset, length } of this.of('read', file)) {
      for (let sector = Math.floor(offset / 512); sector * 512 < offset + length; sector++)
        times[sector]++;
    }
    return times.filter((count) => count > 1).length * 512;
  }
}

/** Whether an operation touches a range of a file. */
export function touches(
  operation: Operation,
  file: string,
  offset: number,
  length: number,
): boolean {
  return (
    operation.file === file &&
    operation.offset < offset + length &&
    offset < operation.offset + operation.length
  );
}

/** A new bench with a raw base of so many bytes, and a disk over it. */
export async function diskOver(length: number): Promise<{ bench: Bench; disk: Disk }> {
  const bench = new Bench();
  bench.addBase(length);
  return { bench, disk: await bench.create() };
}
