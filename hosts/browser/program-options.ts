/** Which of a call's options say where the worker's program and the engine come from. */
import type { OptionNames } from '../api/options.ts';
import type { ProgramOptions } from './api.ts';

export const PROGRAM_OPTIONS: OptionNames<ProgramOptions> = {
  workerUrl: true,
  wasmUrl: true,
  wasm: true,
};

/** Parts them from the others, which go to the worker. */
export function programOf<Options extends ProgramOptions>({
  workerUrl,
  wasmUrl,
  wasm,
  ...rest
}: Options): { program: ProgramOptions; rest: Omit<Options, keyof ProgramOptions> } {
  return { program: { workerUrl, wasmUrl, wasm }, rest };
}
