/**
 * Runs the suite's program (program.ts) in another runtime and reports each of its cases as a test
 * of its own.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { Outcome } from './program.ts';
import type { FixtureServer } from './server.ts';
import { serveFixtures } from './server.ts';
import { cases } from './suite.ts';

/** The top of the repository, where packages' programs and deno.json are. */
export const ROOT: string = fileURLToPath(new URL('../..', import.meta.url));
/** The whole suite takes some fifteen seconds; a case that hangs holds up those behind it. */
const SUITE_MS_MAX = 120_000;

/**
 * How to start the suite on a runtime: program and arguments, for the fixtures' server and a folder
 * for overlays.
 */
export type Start = (server: URL, folder: string) => readonly [program: string, ...args: string[]];

/** Tests that the contract holds on a runtime which runs as a program. */
export function describeProgram(runtime: string, start: Start): void {
  describeWithPeer(['qemu-img', 'qemu-io'], `the contract on ${runtime}`, () => {
    let server: FixtureServer;
    let folder: string;
    let run: SuiteRun;

    beforeAll(async () => {
      server = await serveFixtures();
      folder = await realpath(await mkdtemp(join(tmpdir(), 'millrace-contract-')));
      run = new SuiteRun(start(new URL(server.origin), folder));
    });
    afterAll(async () => {
      await run.ended;
      await server.stop();
      await rm(folder, { recursive: true });
    });

    for (const { name } of cases)
      it(
        name,
        async () => {
          expect((await run.outcome(name)).error).toBeUndefined();
        },
        SUITE_MS_MAX,
      );
    it(
      'ends by itself, and complains about nothing',
      async () => {
        await run.ended;
        expect(run.complaints).toBe('');
      },
      SUITE_MS_MAX,
    );
  });
}

class SuiteRun {
  readonly ended: Promise<void>;
  complaints = '';
  readonly #outcomes = new Map<string, PromiseWithResolvers<Outcome>>();

  constructor([program, ...args]: readonly [string, ...string[]]) {
    for (const { name } of cases) this.#outcomes.set(name, withResolvers());
    const child = spawn(program, args, {
      cwd: ROOT,
      env: { ...process.env, NO_COLOR: '1' },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: SUITE_MS_MAX,
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.complaints += text));
    createInterface({ input: child.stdout }).on('line', (line) => {
      const outcome = JSON.parse(line) as Outcome;
      this.#outcomes.get(outcome.name)?.resolve(outcome);
    });
    child.on('error', (error) => (this.complaints += error.message));
    this.ended = once(child, 'close').then(([code, signal]) => {
      const error = `the suite ended before this case (${signal ?? code}): ${this.complaints}`;
      for (const [name, { resolve }] of this.#outcomes) resolve({ name, error });
    });
  }

  outcome(name: string): Promise<Outcome> {
    return this.#outcomes.get(name)!.promise;
  }
}

interface PromiseWithResolvers<T> {
  promise: Promise<T>;
  resolve(value: T): void;
}

function withResolvers<T>(): PromiseWithResolvers<T> {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
