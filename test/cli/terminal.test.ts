/** The terminal goes away: the command ends as at SIGHUP, and leaves nothing behind. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { DENO, denoArgs } from '../deno/program.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { StallingServer } from '../support/stalling-server.ts';
import { serveAndStall } from '../support/stalling-server.ts';
import { millrace, PROGRAM, withFolder } from './program.ts';

const MIB = 1024 * 1024;
const TERMINAL = fileURLToPath(new URL('terminal.py', import.meta.url));

/** Every command that may wait for a base; a server's URL is its last argument. */
const WAITING: readonly string[][] = [
  ['info'],
  ['map'],
  ['create', 'new.qcow2', '--base'],
  ['stream', 'o.qcow2', '--from'],
  ['rebase', 'o.qcow2', '--base'],
  ['serve', '--listen', '0', 'o.qcow2', '--base'],
  ['convert', '-p', '-O', 'raw', '--json'],
];

/** Runs it on a terminal that goes when the server has been asked what it does not answer. */
async function exitCodeOf(
  cwd: string,
  server: StallingServer,
  session: 'own' | 'other',
  command: readonly string[],
): Promise<number> {
  const child = spawn('python3', [TERMINAL, session, ...command], {
    cwd,
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let told = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    told += text;
  });
  await server.asked;
  child.stdin.end();
  await once(child, 'close');
  server.stop();
  return Number(told);
}

function underNode(args: readonly string[]): string[] {
  return [process.execPath, ...PROGRAM, ...args];
}

describeWithPeer(['python3'], 'a terminal that goes away', () => {
  it(
    'ends each command that waits for a server',
    () =>
      withFolder(async (cwd) => {
        await writeFile(join(cwd, 'base.raw'), new Uint8Array(MIB));
        await millrace(['create', 'o.qcow2', '--base', 'base.raw'], { cwd });
        for (const args of WAITING) {
          const server = await serveAndStall(new Uint8Array(0), 0);
          const where = args[0] === 'convert' ? [server.url, 'copy'] : [server.url];
          const code = await exitCodeOf(cwd, server, 'own', underNode([...args, ...where]));
          expect({ args, code, left: readdirSync(cwd).sort() }).toEqual({
            args,
            code: 129,
            left: ['base.raw', 'o.qcow2'],
          });
        }
      }),
    60_000,
  );

  for (const session of ['own', 'other'] as const)
    it(
      `ends what is copied and shows a bar, on a terminal of ${session} session`,
      () =>
        withFolder(async (cwd) => {
          const content = makeContent('random', 3, 64 * MIB);
          await writeFile(join(cwd, 'base.raw'), content);
          await millrace(['create', 'o.qcow2', '--base', 'base.raw'], { cwd });
          for (const format of ['raw', 'qcow2']) {
            const server = await serveAndStall(content, 4);
            const convert = underNode(['convert', server.url, 'copy', '-O', format]);
            expect(await exitCodeOf(cwd, server, session, convert)).toBe(129);
          }
          for (const under of [
            underNode(['stream', 'o.qcow2', '--base-format', 'raw', '--from']),
            [
              DENO,
              ...denoArgs(cwd, 'hosts/deno/main.ts', '--allow-net'),
              ...['stream', 'o.qcow2', '--base-format', 'raw', '--from'],
            ],
          ]) {
            const server = await serveAndStall(content, 8);
            expect(await exitCodeOf(cwd, server, session, [...under, server.url])).toBe(129);
          }
          expect(readdirSync(cwd).sort()).toEqual(['base.raw', 'o.qcow2']);
        }),
      60_000,
    );
});
