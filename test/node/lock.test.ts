/**
 * Locks of images: between real processes (killed ones, racing ones), and every interleaving of two
 * takers.
 */

import type { ChildProcess } from 'node:child_process';
import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { MillraceError } from '../../hosts/api/errors.ts';
import type { Lock, LockHolder, LockHost } from '../../hosts/files/lock.ts';
import { takeLock } from '../../hosts/files/lock.ts';
import { openFile } from '../../hosts/node/file.ts';
import { lockImage, nodeLockHost } from '../../hosts/node/lock.ts';
import type { Answer, Order } from './holder.ts';

let folder: string;
let image: string;
const children: ChildProcess[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-lock-'));
  image = join(folder, 'disk.qcow2');
  writeFileSync(image, 'an image');
});

afterEach(async () => {
  for (const child of children.splice(0)) await kill(child);
  rmSync(folder, { recursive: true });
});

async function startHolder(): Promise<ChildProcess> {
  const loader = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
  const child = fork(fileURLToPath(new URL('holder.ts', import.meta.url)), {
    execArgv: ['--import', loader],
  });
  children.push(child);
  await once(child, 'message');
  return child;
}

async function order(child: ChildProcess, order: Order): Promise<Answer> {
  const answer = once(child, 'message');
  child.send(order);
  return (await answer)[0] as Answer;
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}

/** Puts the record of somebody else in place. */
function lockAs(holder: Partial<LockHolder>): void {
  mkdirSync(`${image}.lock`);
  writeFileSync(
    join(`${image}.lock`, 'record'),
    JSON.stringify({ ...nodeLockHost.self(), ...holder }),
  );
}

/** A pid that nobody has: Linux gives none above this (PID_MAX_LIMIT). */
const NOBODY = 4_194_305;

describe('a lock', () => {
  it('is a folder beside the image with one record, and goes with its holder', () => {
    const lock = lockImage(image);
    const [name, ...others] = readdirSync(`${image}.lock`);
    expect(others).toEqual([]);
    const record = JSON.parse(readFileSync(join(`${image}.lock`, name), 'utf8')) as LockHolder;
    expect(record).toMatchObject({ pid: process.pid, host: hostname() });
    expect(Date.parse(record.since)).not.toBeNaN();
    lock.release();
    lock.release();
    expect(readdirSync(folder)).toEqual(['disk.qcow2']);
  });

  it('keeps the same process out too', async () => {
    const file = await openFile(image);
    await expect(openFile(image)).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringContaining('in this process already'),
    });
    const reader = await openFile(image, { readOnly: true });
    await reader.close();
    await file.close();
    await (await openFile(image)).close();
  });

  it('is the same through a symbolic link', async () => {
    const link = join(folder, 'link');
    symlinkSync(image, link);
    const file = await openFile(link);
    await expect(openFile(image)).rejects.toMatchObject({ code: 'EBUSY' });
    expect(existsSync(`${image}.lock`)).toBe(true);
    await file.close();
  });

  it('tells another process who has it', async () => {
    const holder = await startHolder();
    expect(await order(holder, { do: 'open', path: image })).toEqual({ held: true });
    const { code, message } = (await openFile(image).catch(
      (error) => error as MillraceError,
    )) as MillraceError;
    expect(code).toBe('EBUSY');
    expect(message).toContain(
      `open for writing by holder.ts (pid ${holder.pid} on ${hostname()}, since 20`,
    );
    expect(message).not.toContain('\n');
    await order(holder, { do: 'close', path: image });
    await (await openFile(image)).close();
  });

  it('is given back when a process exits without closing', async () => {
    const holder = await startHolder();
    await order(holder, { do: 'open', path: image });
    const exit = once(holder, 'exit');
    holder.disconnect();
    await exit;
    expect(readdirSync(folder)).toEqual(['disk.qcow2']);
  });

  it('is taken over from a process that was killed', async () => {
    const holder = await startHolder();
    await order(holder, { do: 'open', path: image });
    await kill(holder);
    expect(existsSync(`${image}.lock`)).toBe(true);
    const file = await openFile(image);
    expect(readdirSync(`${image}.lock`)).toHaveLength(1);
    await file.close();
    expect(readdirSync(folder)).toEqual(['disk.qcow2']);
  });

  it('is taken over from a thread that was terminated, but not before', async () => {
    const loader = pathToFileURL(
      createRequire(import.meta.url)
        .resolve('tsx/esm/api')
        .replace(/cjs$/, 'mjs'),
    ).href;
    const module = new URL('../../hosts/node/file.ts', import.meta.url).href;
    const thread = new Worker(
      `import(${JSON.stringify(loader)})
      .then(({ tsImport }) => tsImport(${JSON.stringify(module)}, ${JSON.stringify(module)}))
      .then(({ openFile }) => openFile(${JSON.stringify(image)}))
      .then((file) => require('node:worker_threads').parentPort.on('message', () => file).postMessage('held'));
    `,
      { eval: true, execArgv: [] },
    );
    try {
      await once(thread, 'message');
      await expect(openFile(image)).rejects.toMatchObject({
        code: 'EBUSY',
        message: expect.stringContaining('in this process already'),
      });
    } finally {
      await thread.terminate();
    }
    const file = await openFile(image);
    expect(readdirSync(`${image}.lock`)).toHaveLength(1);
    await file.close();
    expect(readdirSync(folder)).toEqual(['disk.qcow2']);
  });

  it('goes to exactly one of many processes that find it left by a killed one', async () => {
    const victim = await startHolder();
    await order(victim, { do: 'open', path: image });
    await kill(victim);
    const stale = join(folder, 'stale');
    cpSync(`${image}.lock`, stale, { recursive: true });
    const takers = await Promise.all(Array.from({ length: 5 }, startHolder));
    for (let round = 0; round < 40; round++) {
      if (round > 0) cpSync(stale, `${image}.lock`, { recursive: true });
      const answers = await Promise.all(
        takers.map((taker) => order(taker, { do: 'open', path: image })),
      );
      expect(answers.filter(({ held }) => held)).toHaveLength(1);
      expect(answers.filter(({ code }) => code === 'EBUSY')).toHaveLength(takers.length - 1);
      await Promise.all(takers.map((taker) => order(taker, { do: 'close', path: image })));
      expect(readdirSync(folder).sort()).toEqual(['disk.qcow2', 'stale']);
    }
  });
});

describe('a lock that somebody left', () => {
  it.each([
    ['of a process that is gone', { pid: NOBODY }],
    ["of a process whose pid is another one's now", { started: '1' }],
    ['of before the machine started', { boot: 'another boot' }],
  ])('%s is taken over', (_, holder) => {
    lockAs(holder);
    lockImage(image).release();
    expect(readdirSync(folder)).toEqual(['disk.qcow2']);
  });

  it('of a process that has ended but that its parent has not noticed is taken over', async () => {
    // The child outlives the shell, which would take notice of its end; the program that replaces
    // the shell never does.
    const parent = spawn('sh', ['-c', 'sleep 1 & echo $!; exec sleep 60']);
    children.push(parent);
    const zombie = Number((await once(parent.stdout, 'data'))[0]);
    while (!/\) Z /.test(readFileSync(`/proc/${zombie}/stat`, 'utf8'))) await setTimeout(5);
    lockAs({ pid: zombie, started: undefined });
    lockImage(image).release();
  });

  it.each([
    ['on another machine', { pid: NOBODY, host: 'elsewhere' }, 'elsewhere'],
    ['in another container', { pid: NOBODY, namespace: 'pid:[1]' }, String(NOBODY)],
    ['with a name that would break the line', { host: 'else\nwhere' }, 'else?where'],
  ])('%s is not: nobody here can tell whether it is in use', (_, holder, said) => {
    lockAs(holder);
    expect(() => lockImage(image)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    expect(() => lockImage(image)).toThrow(said);
    expect(() => lockImage(image)).toThrow(`if that program is gone, remove '${image}.lock'`);
  });

  it('without content (a power cut) is taken over; with content that is not ours, it is not', () => {
    for (const nothing of ['', '\0\0\0\0']) {
      mkdirSync(`${image}.lock`);
      writeFileSync(join(`${image}.lock`, 'record'), nothing);
      lockImage(image).release();
    }
    mkdirSync(`${image}.lock`);
    for (const other of ['hello', '{}', '{"pid":1}', 'null']) {
      writeFileSync(join(`${image}.lock`, 'record'), other);
      expect(() => lockImage(image)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    }
    expect(readdirSync(`${image}.lock`)).toEqual(['record']);
  });

  it('as a file of another program stays', () => {
    writeFileSync(`${image}.lock`, 'mine');
    expect(() => lockImage(image)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    expect(readdirSync(folder).sort()).toEqual(['disk.qcow2', 'disk.qcow2.lock']);
  });

  it('before it was in its place is swept away, but not that of one who lives', () => {
    const staged = (digit: number): string =>
      `disk.qcow2.lock.1-${String(digit).repeat(8)}-1111-4111-8111-111111111111`;
    const make = (name: string, text: string): void => {
      mkdirSync(join(folder, name));
      writeFileSync(join(folder, name, 'record'), text);
    };
    make(staged(1), JSON.stringify({ ...nodeLockHost.self(), pid: NOBODY }));
    make(staged(2), JSON.stringify(nodeLockHost.self()));
    // Whoever is about to write a record here makes it again.
    make(staged(3), '');
    mkdirSync(join(folder, staged(4)));
    make('disk.qcow2.lock.of-another', '');
    mkdirSync(join(folder, 'disk.qcow2.lock.empty'));
    lockImage(image).release();
    expect(readdirSync(folder).sort()).toEqual([
      'disk.qcow2',
      staged(2),
      'disk.qcow2.lock.empty',
      'disk.qcow2.lock.of-another',
    ]);
  });
});

describe('two takers', () => {
  /** The operations of `first`, with all that `second` does before the one numbered `at`. */
  function interleave(
    at: number,
    second: () => void,
  ): { host: LockHost; operations: () => number } {
    let count = 0;
    const entries = Object.entries(nodeLockHost).map(([name, operation]) => [
      name,
      (...args: never[]) => {
        if (count++ === at) second();
        return (operation as (...args: never[]) => unknown)(...args);
      },
    ]);
    return { host: Object.fromEntries(entries) as LockHost, operations: () => count };
  }

  function attempt(host: LockHost): Lock | undefined {
    try {
      return takeLock(image, host);
    } catch (error) {
      expect(error).toMatchObject({ code: 'EBUSY' });
      return undefined;
    }
  }

  it.each([
    ['a free lock', () => {}],
    ['a lock that was left', () => lockAs({ pid: NOBODY })],
  ])('never both hold %s, wherever one overtakes the other', (_, prepare) => {
    for (let at = 0, operations = Infinity; at < operations; at++) {
      prepare();
      let second: Lock | undefined;
      const interleaved = interleave(at, () => (second = attempt(nodeLockHost)));
      const first = attempt(interleaved.host);
      operations = interleaved.operations();
      expect(
        [first, second].filter((lock) => lock !== undefined),
        `overtaken at operation ${at}`,
      ).toHaveLength(1);
      expect(readdirSync(`${image}.lock`)).toHaveLength(1);
      (first ?? second)!.release();
      expect(readdirSync(folder)).toEqual(['disk.qcow2']);
    }
  });

  it('both get it when the second gives it back in time', () => {
    for (let at = 0, operations = Infinity; at < operations; at++) {
      lockAs({ pid: NOBODY });
      const interleaved = interleave(at, () => attempt(nodeLockHost)?.release());
      const first = attempt(interleaved.host);
      operations = interleaved.operations();
      expect(first, `overtaken at operation ${at}`).toBeDefined();
      first!.release();
      expect(readdirSync(folder)).toEqual(['disk.qcow2']);
    }
  });
});
