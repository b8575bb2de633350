/**
 * Runs other programs to their end and hands back what they said. It never goes through a shell.
 */
import { spawn } from 'node:child_process';

/** No program that tests run takes so long: one that does hangs, and is ended. */
export const RUN_MS_MAX: number = 10 * 60_000;

export interface RunResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  cwd?: string;
  /** Added to this process's environment. */
  env?: Record<string, string>;
  /** Exit codes that are answers and not failures; default only 0. */
  exitCodes?: readonly number[];
  /** Milliseconds after which it is ended; default `RUN_MS_MAX`. */
  msMax?: number;
}

/**
 * Runs a program, its messages in English.
 * @throws with what it wrote to stderr, when it ends with another exit code or by a signal.
 */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const env = { ...process.env, LC_ALL: 'C', ...options.env };
  const child = spawn(program, args, {
    cwd: options.cwd,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: options.msMax ?? RUN_MS_MAX,
  });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (bytes: Buffer) => stdout.push(bytes));
  child.stderr.on('data', (bytes: Buffer) => stderr.push(bytes));
  const [exitCode, signal] = await new Promise<[number | null, string | null]>(
    (resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, by) => resolve([code, by]));
    },
  );
  const result = { exitCode: exitCode ?? -1, stdout: text(stdout), stderr: text(stderr) };
  if (exitCode !== null && (options.exitCodes ?? [0]).includes(exitCode)) return result;
  const end = exitCode === null ? `was ended by ${signal}` : `ended with ${exitCode}`;
  throw new Error(
    `${program} ${args.join(' ')} ${end}: ${result.stderr.trim() || result.stdout.trim()}`,
  );
}

function text(parts: Buffer[]): string {
  return Buffer.concat(parts).toString();
}
