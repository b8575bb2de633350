/** Deno programs for tests, with the permissions of one folder and no others. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { RunResult } from '../support/run.ts';
import { run } from '../support/run.ts';

export const ROOT: string = fileURLToPath(new URL('../..', import.meta.url));
export const DENO: string = join(ROOT, 'node_modules/.bin/deno');

/** The arguments of `deno` that run a program of this repository, `more` permissions included. */
export function denoArgs(folder: string, program: string, ...more: string[]): string[] {
  return [
    'run',
    '--no-prompt',
    '--quiet',
    '--cached-only',
    '--config',
    join(ROOT, 'deno.json'),
    `--allow-read=${folder}`,
    `--allow-write=${folder}`,
    ...more,
    join(ROOT, program),
  ];
}

/** `millrace` under Deno, in a folder. */
export function millraceUnderDeno(
  folder: string,
  args: readonly string[],
  ...permissions: string[]
): Promise<RunResult> {
  return run(DENO, [...denoArgs(folder, 'hosts/deno/main.ts', ...permissions), ...args], {
    cwd: folder,
    exitCodes: [0, 1, 2, 3],
    env: { NO_COLOR: '1' },
  });
}
