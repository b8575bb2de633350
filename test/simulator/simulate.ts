/** Runs seeds: one is one simulated disk from its making to its end, and tells the same story every time. */
import { readFileSync } from 'node:fs';
import { Events } from './events.ts';
import type { Counts } from './disk.ts';
import { SimulatedDisk } from './disk.ts';
import { planOf } from './plan.ts';

export interface Outcome extends Counts {
  /** Simulated time: ms. */
  time: number;
  error?: Error;
  /** The last of what happened, if it was asked for. */
  trace: string[];
}

export function loadEngine(path: string | URL = new URL('../../hosts/engine.wasm', import.meta.url)): WebAssembly.Module {
  return new WebAssembly.Module(readFileSync(path));
}

/** `onImage` sees the overlay's file at every cut and close. */
export function simulate(module: WebAssembly.Module, seed: number, options: { traced?: boolean; onImage?(file: Uint8Array, closed: boolean): void } = {}): Outcome {
  const events = new Events();
  let disk: SimulatedDisk | undefined;
  let error: Error | undefined;
  try {
    disk = new SimulatedDisk(module, planOf(seed), seed, events, { traced: options.traced ?? false, onImage: options.onImage ?? (() => {}) });
    disk.run();
  } catch (cause) {
    error = cause as Error;
  }
  const counts = disk?.counts ?? { requests: 0, operations: 0, cuts: 0, opens: 0, jobs: 0, faults: 0 };
  return { ...counts, time: events.now, error, trace: disk?.trace ?? [] };
}
