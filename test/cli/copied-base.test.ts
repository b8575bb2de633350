/** A base with the same bytes and another date: it is refused, and what the message names helps. */
import { copyFile, mkdir, readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeContent } from '../fixtures/content.ts';
import { millrace, withFolder } from './program.ts';

describe('a base that was copied', () => {
  it('is refused with its dates, by every command that reads it, and taken after the command named', () =>
    withFolder(async (cwd) => {
      const bytes = makeContent('text', 3, 1024 * 1024);
      await writeFile(join(cwd, "the base's.raw"), bytes);
      await utimes(join(cwd, "the base's.raw"), 1e9, 1e9);
      await millrace(['create', 'vm.qcow2', '--base', "the base's.raw"], { cwd });
      const copy = join(cwd, 'copy');
      await mkdir(copy);
      for (const name of ['vm.qcow2', "the base's.raw"])
        await copyFile(join(cwd, name), join(copy, name));
      let command = '';
      for (const args of [
        ['convert', 'vm.qcow2', 'out.raw'],
        ['stream', 'vm.qcow2'],
      ]) {
        const { exitCode, stderr } = await millrace(args, { cwd: copy });
        expect(exitCode, args.join(' ')).toBe(1);
        expect(stderr).toContain('it was last written 2001-09-09 01:46:40.000 UTC, and is last');
        command = /: (millrace rebase -u .*)\n$/.exec(stderr)![1];
      }
      expect(command).toBe("millrace rebase -u vm.qcow2 --base 'the base'\\''s.raw'");
      const { exitCode } = await millrace(
        ['rebase', '-u', 'vm.qcow2', '--base', "the base's.raw"],
        { cwd: copy },
      );
      expect(exitCode).toBe(0);
      await millrace(['convert', 'vm.qcow2', 'out.raw'], { cwd: copy });
      expect((await readFile(join(copy, 'out.raw'))).equals(bytes)).toBe(true);
    }));

  it('is taken by rebase, onto itself, another or none, with a word about the date', () =>
    withFolder(async (cwd) => {
      const bytes = makeContent('text', 3, 1024 * 1024);
      for (const name of ['base.raw', 'other.raw', 'third.raw'])
        await writeFile(join(cwd, name), bytes);
      await utimes(join(cwd, 'base.raw'), 1e9, 1e9);
      await millrace(['create', 'made.qcow2', '--base', 'base.raw'], { cwd });
      await utimes(join(cwd, 'base.raw'), 1e9 + 1, 1e9 + 1);
      for (const [index, how] of [
        ['--base', 'base.raw'],
        ['--base', 'other.raw'],
        ['--no-base'],
      ].entries()) {
        const name = `vm${index}.qcow2`;
        await copyFile(join(cwd, 'made.qcow2'), join(cwd, name));
        const told = await millrace(['rebase', name, ...how], { cwd });
        expect(told).toMatchObject({
          exitCode: 0,
          stderr: expect.stringMatching(
            /is taken for what it was made on.*: it was last written 2001-09-09 01:46:40.000 UTC, and is last written 2001-09-09 01:46:41/,
          ),
        });
        expect(await millrace(['convert', name, `${name}.raw`], { cwd })).toMatchObject({
          exitCode: 0,
        });
        expect((await readFile(join(cwd, `${name}.raw`))).equals(bytes)).toBe(true);
      }
      await writeFile(join(cwd, 'base.raw'), bytes.subarray(512));
      expect(await millrace(['rebase', 'made.qcow2', '--no-base'], { cwd })).toMatchObject({
        exitCode: 1,
        stderr: expect.stringMatching(/it had 1048576 bytes, and has 1048064.*rebase -u/),
      });
    }));
});
