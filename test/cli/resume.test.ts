/** `millrace resume` and `abort`: of the job of a disk that is served. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createDisk, createHandler, listen } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { millraceHere, withFolder } from './program.ts';

describe('the job of a served disk', () => {
  it('goes on after resume, ends by abort, and has a token asked for', () =>
    withFolder(async (cwd) => {
      await writeFile(join(cwd, 'base.raw'), makeContent('random', 1, 1024 * 1024));
      await using disk = await createDisk({
        overlay: join(cwd, 'vm.qcow2'),
        base: join(cwd, 'base.raw'),
      });
      const served = await listen(createHandler({ disks: { vda: disk }, token: 'secret' }));
      const url = `${served.url}/disks/vda`;
      await writeFile(join(cwd, 'token'), 'secret');
      const token = ['--token-file', join(cwd, 'token')];
      try {
        expect((await millraceHere('resume', url)).stderr).toMatch(/token/);
        expect(await millraceHere('resume', url, ...token)).toMatchObject({
          exitCode: 1,
          stderr: expect.stringMatching(/no job/),
        });
        await disk.stream({ nonblock: true, speed: 1000 });
        await disk.pause();
        const resumed = await millraceHere('resume', url, ...token);
        expect(resumed).toMatchObject({ exitCode: 0, stderr: '' });
        expect(resumed.stdout).toMatch(/^http:.*\/disks\/vda: resumed, .* left\n$/);
        expect((await disk.info()).paused).toBe(false);
        const aborted = await millraceHere('abort', url, '--json', ...token);
        expect(JSON.parse(aborted.stdout)).toMatchObject({ status: 2, reason: 'aborted' });
        expect(await millraceHere('resume', 'vda')).toMatchObject({
          exitCode: 1,
          stderr: expect.stringMatching(/not the URL of a served disk/),
        });
      } finally {
        await served.close();
      }
    }));
});
