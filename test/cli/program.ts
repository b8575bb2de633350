/**
 * The program under test: run as a user runs it, in a process of its own, or inside the test's
 * process where many runs are needed and what is looked at is only what it says.
 */

import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Runtime } from '../../hosts/api/runtime.ts';
import type { Output, Platform } from '../../hosts/faces/cli/platform.ts';
import { runCommandLine } from '../../hosts/faces/cli/program.ts';
import { cacheFolder } from '../../hosts/node/base-cache.ts';
import { openHttp } from '../../hosts/node/http.ts';
import { openNbd } from '../../hosts/node/nbd-base.ts';
import { nodeRuntime } from '../../hosts/node/runtime.ts';
import { listen } from '../../hosts/node/serve.ts';
import type { RunResult } from '../support/run.ts';
import { run } from '../support/run.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const ANY_EXIT_CODE = Array.from({ length: 256 }, (_, code) => code);

/**
 * Arguments of `node` that start the program: as it was built, or from its sources if these are
 * newer.
 */
export const PROGRAM: readonly string[] = programArguments();

function programArguments(): string[] {
  const built = join(ROOT, 'dist/node/main.js');
  const sources = readdirSync(join(ROOT, 'hosts'), { recursive: true })
    .map(String)
    .filter((name) => /\.(ts|wasm)$/.test(name));
  const newest = Math.max(...sources.map((name) => statSync(join(ROOT, 'hosts', name)).mtimeMs));
  if (
    existsSync(join(ROOT, 'dist/engine.wasm')) &&
    existsSync(built) &&
    statSync(built).mtimeMs > newest
  )
    return [built];
  return [
    '--import',
    pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href,
    join(ROOT, 'hosts/node/main.ts'),
  ];
}

/** Runs `millrace` to its end, whatever its exit code is. */
export function millrace(args: readonly string[], options: { cwd: string }): Promise<RunResult> {
  return run(process.execPath, [...PROGRAM, ...args], {
    cwd: options.cwd,
    exitCodes: ANY_EXIT_CODE,
  });
}

/** A `millrace` that is under way. */
export interface Started {
  readonly child: ChildProcess;
  /** What it has written so far. */
  readonly output: { stdout: string; stderr: string };
  /** Resolves when what it has written to `stream` matches. */
  until(stream: 'stdout' | 'stderr', pattern: RegExp): Promise<void>;
  /** Its exit code, and everything it wrote. */
  readonly ended: Promise<RunResult>;
}

/**
 * Starts `millrace`, for what has to happen while it runs. `stdout` is a file descriptor that it
 * writes to instead; `under` is a program, with its arguments, that is handed the command line to
 * run.
 */
export function startMillrace(
  args: readonly string[],
  options: { cwd: string; stdout?: number; under?: readonly string[] },
): Started {
  const [program, ...rest] = [...(options.under ?? []), process.execPath, ...PROGRAM, ...args];
  const child: ChildProcess = spawn(program, rest, {
    cwd: options.cwd,
    stdio: ['ignore', options.stdout ?? 'pipe', 'pipe'],
  });
  const output = { stdout: '', stderr: '' };
  child.stdout?.setEncoding('utf8').on('data', (text) => {
    output.stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text) => {
    output.stderr += text;
  });
  const ended = once(child, 'close').then(([exitCode]) => ({
    exitCode: exitCode as number,
    ...output,
  }));
  return {
    child,
    output,
    ended,
    until(stream, pattern) {
      return new Promise((resolve, reject) => {
        const look = (): void => {
          if (pattern.test(output[stream])) resolve();
        };
        look();
        child[stream]!.on('data', look);
        void ended.then(() =>
          reject(new Error(`it ended before it said ${pattern}: ${output.stdout}${output.stderr}`)),
        );
      });
    },
  };
}

/** A command line's platform inside this process, with what was written to it. */
export function platformOver(runtime: Runtime): {
  platform: Platform;
  written: { stdout: string; stderr: string };
} {
  const written = { stdout: '', stderr: '' };
  const output = (name: 'stdout' | 'stderr'): Output => ({
    write: (text) => {
      written[name] += text;
    },
    isTTY: false,
    columns: undefined,
  });
  const platform: Platform = {
    runtime,
    openHttp,
    openNbd,
    cacheFolder,
    version: '0.0.0',
    lockAdvice: 'by some means',
    stdout: output('stdout'),
    stderr: output('stderr'),
    onInterrupt: () => () => {},
    exit: (code) => {
      throw new Error(`exit ${code}`);
    },
    listFolder: (path) => readdir(path),
    allocatedBytes: async (path) => (await stat(path)).blocks * 512,
    serve: listen,
  };
  return { platform, written };
}

/** Runs a command line inside this process. */
export async function millraceHere(...args: string[]): Promise<RunResult> {
  const { platform, written } = platformOver(nodeRuntime);
  const exitCode = await runCommandLine(platform, args);
  return { exitCode, ...written };
}

/** A folder that is removed after use. */
export async function withFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-cli-'));
  try {
    await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
