/**
 * Runs seeds: one is a few simulated disks under one clock, from their making to their end, and
 * tells the same story every time.
 */
import { readFileSync } from 'node:fs';
import { Random } from '../fixtures/content.ts';
import type { Counts, Hooks, Life } from './disk.ts';
import { PowerCut, SimulatedDisk } from './disk.ts';
import { Events } from './events.ts';
import { planOf } from './plan.ts';

const TRACE_LINES = 400;
/** Disks of a seed, the first of which has the plan of the seed's number. */
const DISKS = [1, 1, 1, 2, 2, 3, 4];

export interface Outcome extends Counts {
  disks: number;
  /** Simulated time: ms. */
  time: number;
  error?: Error;
  /** The last of what happened, each line after the number of its disk, if it was asked for. */
  trace: string[];
}

export function loadEngine(
  path: string | URL = new URL('../../hosts/engine.wasm', import.meta.url),
): WebAssembly.Module {
  return new WebAssembly.Module(readFileSync(path));
}

export interface SimulateOptions {
  traced?: boolean;
  /** Sees an overlay's file at every cut and close. */
  onImage?(file: Uint8Array, closed: boolean): void;
  /** Sees the memory of each engine when it works no more. */
  onMemory?(memory: Uint8Array): void;
}

export function simulate(
  module: WebAssembly.Module,
  seed: number,
  options: SimulateOptions = {},
): Outcome {
  const room = new MachineRoom(module, seed, options);
  let error: Error | undefined;
  try {
    room.run();
  } catch (cause) {
    error = cause as Error;
  }
  return { ...room.counts(), time: room.events.now, error, trace: room.trace };
}

/** The disks of one seed, which may hang on one supply of power. */
class MachineRoom {
  readonly events = new Events();
  readonly #disks: SimulatedDisk[] = [];
  readonly #lives: (Life | undefined)[] = [];
  readonly trace: string[] = [];
  /** The power of the current one has just gone. */
  #dark = false;

  constructor(
    module: WebAssembly.Module,
    seed: number,
    { traced = false, onImage = () => {}, onMemory = () => {} }: SimulateOptions,
  ) {
    const random = new Random(seed ^ 0x2545f491);
    const count = DISKS[random.between(0, DISKS.length - 1)];
    const onePower = random.between(0, 1) > 0;
    for (let i = 0; i < count; i++) {
      const tell = traced ? (line: string): void => this.#tell(`${i} ${line}`) : undefined;
      const hooks: Hooks = { tell, onImage, onMemory, onCut: () => void (this.#dark = onePower) };
      const own = i === 0 ? seed : random.next();
      const disk = new SimulatedDisk(module, planOf(own), own, this.events, hooks);
      this.#disks.push(disk);
      this.#lives.push(disk.live());
    }
  }

  counts(): Counts & { disks: number } {
    const sum = {
      disks: this.#disks.length,
      requests: 0,
      operations: 0,
      cuts: 0,
      opens: 0,
      jobs: 0,
      faults: 0,
    };
    for (const { counts } of this.#disks)
      for (const name of Object.keys(counts) as (keyof Counts)[]) sum[name] += counts[name];
    return sum;
  }

  run(): void {
    for (
      let happens = true;
      this.#lives.some((life) => life !== undefined);
      happens = this.events.next()
    ) {
      for (let i = 0; i < this.#lives.length; i++) {
        this.#resume(i, (life) => life.next(happens));
        if (!this.#dark) continue;
        this.#dark = false;
        for (let other = 0; other < this.#disks.length; other++) {
          if (other !== i && this.#disks[other].canLosePower)
            this.#resume(other, (life) => life.throw(new PowerCut()));
        }
      }
    }
  }

  #resume(index: number, go: (life: Life) => IteratorResult<void>): void {
    const life = this.#lives[index];
    if (!life) return;
    if (go(life).done) this.#lives[index] = undefined;
  }

  #tell(line: string): void {
    this.trace.push(line);
    if (this.trace.length > 2 * TRACE_LINES) this.trace.splice(0, TRACE_LINES);
  }
}
