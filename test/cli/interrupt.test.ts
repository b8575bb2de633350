/** Ctrl-C: the job stops cleanly, what was copied stays, and running it again goes on. */
import { existsSync, readdirSync } from 'node:fs';
import { readFile, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { SIGNALS } from '../../hosts/faces/cli/platform.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, createImage, info, qemuIo } from '../support/qemu.ts';
import type { RunResult } from '../support/run.ts';
import type { StallingServer } from '../support/stalling-server.ts';
import { serveAndStall } from '../support/stalling-server.ts';
import { millrace, startMillrace, withFolder } from './program.ts';

const MIB = 1024 * 1024;
const SIZE = 64 * MIB;
/**
 * So slow that the job cannot end before it is stopped, and so quick that it has copied something.
 */
const SPEED = '1M';

async function makeOverlay(cwd: string): Promise<void> {
  await writeFile(join(cwd, 'base.raw'), makeContent('random', 3, SIZE));
  await millrace(['create', 'o.qcow2', '--base', 'base.raw'], { cwd });
}

async function remaining(cwd: string): Promise<number> {
  return (
    JSON.parse((await millrace(['info', 'o.qcow2', '--json'], { cwd })).stdout) as {
      remaining: number;
    }
  ).remaining;
}

describe('a command that brings no handler of its own', () => {
  for (const [signal, number] of Object.entries(SIGNALS) as [NodeJS.Signals, number][]) {
    it(
      `ends at ${signal}, and gives its lock back`,
      () =>
        withFolder(async (cwd) => {
          await millrace(['create', 'o.qcow2', '--size', '1M'], { cwd });
          for (const args of [
            ['rebase', 'o.qcow2'],
            ['create', 'new.qcow2'],
          ]) {
            const server = await serveAndStall(new Uint8Array(0), 0);
            const command = startMillrace([...args, '--base', server.url], { cwd });
            await server.asked;
            command.child.kill(signal);
            expect(await command.ended).toEqual({
              exitCode: 128 + number,
              stdout: '',
              stderr: '',
            });
            expect(readdirSync(cwd)).toEqual(['o.qcow2']);
            server.stop();
          }
        }),
      60_000,
    );
  }
});

describeWithPeer(['qemu-img'], 'an interrupted stream', () => {
  for (const [signal, number] of Object.entries(SIGNALS) as [NodeJS.Signals, number][]) {
    it(
      `stops cleanly at ${signal}, and goes on when run again`,
      () =>
        withFolder(async (cwd) => {
          await makeOverlay(cwd);
          const job = startMillrace(['stream', 'o.qcow2', '--speed', SPEED, '--json'], { cwd });
          await job.until('stdout', /"status":1/);
          job.child.kill(signal);
          const { exitCode, stdout, stderr } = await job.ended;
          expect(exitCode).toBe(128 + number);
          expect(readdirSync(cwd).filter((name) => name.includes('.lock'))).toEqual([]);
          const last = JSON.parse(stdout.trim().split('\n').at(-1)!) as { remaining: number };
          expect(last).toMatchObject({ status: 2, reason: 'aborted' });
          expect(stderr).toMatch(/^millrace: stopped: [^\n]* left; run it again to go on\n$/);
          expect(stderr).toContain(`(${last.remaining} bytes) of 64 MiB left`);

          expect(last.remaining).toBeGreaterThan(0);
          expect(last.remaining).toBeLessThan(SIZE);
          expect(await remaining(cwd)).toBe(last.remaining);
          expect((await check(join(cwd, 'o.qcow2'))).exitCode).toBe(0);
          expect(existsSync(join(cwd, 'o.qcow2.lock'))).toBe(false);

          const again = await millrace(['stream', 'o.qcow2', '--json'], { cwd });
          expect(again).toMatchObject({ exitCode: 0, stderr: '' });
          expect((await info(join(cwd, 'o.qcow2')))['backing-filename']).toBeUndefined();
          expect(
            await compare(join(cwd, 'o.qcow2'), join(cwd, 'base.raw'), { formatB: 'raw' }),
          ).toMatchObject({ identical: true });
          expect((await check(join(cwd, 'o.qcow2'))).exitCode).toBe(0);
        }),
      60_000,
    );
  }

  it(
    'ends when its base is written, and says what it needs',
    () =>
      withFolder(async (cwd) => {
        await makeOverlay(cwd);
        const job = startMillrace(['stream', 'o.qcow2', '--speed', SPEED, '--json'], { cwd });
        await job.until('stdout', /"status":1/);
        await utimes(join(cwd, 'base.raw'), 1, 1);
        const { exitCode, stderr } = await job.ended;
        expect(exitCode).toBe(1);
        expect(stderr).toMatch(
          /^millrace: 'base\.raw' has changed since it was opened[^\n]* left, give it the base that it was made on to go on\n$/,
        );
      }),
    60_000,
  );

  it(
    'is the only one that may write: a second one is told who has the overlay, and lookers are let in',
    () =>
      withFolder(async (cwd) => {
        await makeOverlay(cwd);
        const job = startMillrace(['stream', 'o.qcow2', '--speed', SPEED, '--json'], { cwd });
        await job.until('stdout', /"status":1/);
        const second = await millrace(['stream', 'o.qcow2'], { cwd });
        expect(second).toMatchObject({ exitCode: 1, stdout: '' });
        expect(second.stderr).toMatch(
          new RegExp(`^millrace: [^\\n]*\\b${job.child.pid}\\b[^\\n]*\\n$`),
        );
        expect(await millrace(['info', 'o.qcow2'], { cwd })).toMatchObject({
          exitCode: 0,
          stderr: '',
        });
        job.child.kill('SIGINT');
        expect((await job.ended).exitCode).toBe(130);
      }),
    60_000,
  );
});

describeWithPeer(['qemu-img', 'qemu-io'], 'a stream that has not begun', () => {
  it(
    'ends at once, though it still looks for what is missing in a base that does not answer',
    () =>
      withFolder(async (cwd) => {
        const [root, middle] = [join(cwd, 'base.raw'), join(cwd, 'middle.qcow2')];
        await writeFile(root, '');
        await truncate(root, 1024 * MIB);
        await createImage(middle, { base: root, baseFormat: 'raw' });
        // The second table of the middle image comes behind this data.
        await qemuIo(middle, ['write -P 1 0 8M', 'write -P 2 600M 64K']);
        const server = await serveAndStall(await readFile(middle), Infinity, 4 * MIB);
        await millrace(
          [
            'create',
            'o.qcow2',
            '--base',
            'middle.qcow2',
            '--follow-chain',
            '--record-base',
            server.url,
          ],
          { cwd },
        );
        const job = startMillrace(['stream', 'o.qcow2', '--base', root, '--follow-chain'], { cwd });
        await server.asked;
        job.child.kill('SIGINT');
        expect(await job.ended).toEqual({ exitCode: 130, stdout: '', stderr: '' });
        expect(existsSync(join(cwd, 'o.qcow2.lock'))).toBe(false);
        server.stop();
      }),
    20_000,
  );
});

describe('a stream that nobody reads about any more', () => {
  it(
    'ends as by SIGPIPE, and gives its lock back',
    () =>
      withFolder(async (cwd) => {
        await makeOverlay(cwd);
        const job = startMillrace(['stream', 'o.qcow2', '--speed', SPEED, '--json'], { cwd });
        await job.until('stdout', /"status":1/);
        job.child.stdout!.destroy();
        expect(await job.ended).toMatchObject({ exitCode: 141, stderr: '' });
        expect(existsSync(join(cwd, 'o.qcow2.lock'))).toBe(false);
        expect(await remaining(cwd)).toBeGreaterThan(0);
      }),
    60_000,
  );
});

describe('an interrupted copy', () => {
  /** Interrupts it once its base no longer answers. */
  async function interrupted(
    cwd: string,
    args: string[],
    server: StallingServer,
  ): Promise<RunResult> {
    const copy = startMillrace(['convert', server.url, 'copy', ...args], { cwd });
    await server.asked;
    copy.child.kill('SIGINT');
    const result = await copy.ended;
    server.stop();
    return result;
  }

  it(
    'ends at once and leaves no half of one, though its base does not answer',
    () =>
      withFolder(async (cwd) => {
        const content = makeContent('random', 3, SIZE);
        for (const format of ['raw', 'qcow2', 'qcow2 -c']) {
          const { exitCode, stderr } = await interrupted(
            cwd,
            ['-O', ...format.split(' ')],
            await serveAndStall(content, 4),
          );
          expect({ format, exitCode, stderr, left: readdirSync(cwd) }).toEqual({
            format,
            exitCode: 130,
            stderr: 'millrace: stopped: copy was not finished and is removed\n',
            left: [],
          });
        }
      }),
    60_000,
  );

  it(
    'whose base has not been opened yet leaves what was there, and says so',
    () =>
      withFolder(async (cwd) => {
        await writeFile(join(cwd, 'copy'), 'mine');
        for (const format of ['raw', 'qcow2']) {
          const result = await interrupted(
            cwd,
            ['-O', format],
            await serveAndStall(new Uint8Array(0), 0),
          );
          expect({ format, ...result }).toEqual({
            format,
            exitCode: 130,
            stdout: '',
            stderr: 'millrace: stopped: nothing was written\n',
          });
        }
        expect(readdirSync(cwd)).toEqual(['copy']);
        expect(await readFile(join(cwd, 'copy'), 'utf8')).toBe('mine');
      }),
    60_000,
  );

  it(
    'leaves no half of one either when it is interrupted twice',
    () =>
      withFolder(async (cwd) => {
        await writeFile(join(cwd, 'base.raw'), makeContent('random', 3, SIZE));
        for (const format of ['raw', 'qcow2']) {
          const copy = startMillrace(['convert', 'base.raw', 'copy', '-O', format], { cwd });
          while (
            !['copy', 'copy.millrace-new'].some((name) => existsSync(join(cwd, name))) &&
            copy.child.exitCode === null
          )
            await new Promise((resolve) => setTimeout(resolve, 1));
          copy.child.kill('SIGINT');
          copy.child.kill('SIGTERM');
          // However far it has come: it leaves a whole copy or nothing. Which of two signals comes
          // first is the system's to say, and once the copy is finished, either ends the program as
          // any other.
          const { exitCode } = await copy.ended;
          const left = readdirSync(cwd).filter((name) => /^copy(?!\.lock)/.test(name));
          expect([0, 130, 143]).toContain(exitCode);
          if (exitCode === 0 || left.length > 0) {
            expect(left).toEqual(['copy']);
            const compared = await millrace(['compare', 'base.raw', 'copy'], { cwd });
            expect(compared).toMatchObject({ exitCode: 0, stdout: 'Images are identical.\n' });
          }
          for (const name of readdirSync(cwd).filter((name) => name.startsWith('copy')))
            await rm(join(cwd, name), { recursive: true });
        }
      }),
    60_000,
  );
});
