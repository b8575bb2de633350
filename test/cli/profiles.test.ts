/** Boot profiles on the command line: recorded by `serve`, shown, merged, found beside a base. */
import { copyFile, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { decodeProfile } from '../../hosts/profiles/format.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { NginxServer } from '../support/nginx.ts';
import { startNginx } from '../support/nginx.ts';
import type { Started } from './program.ts';
import { millrace, startMillrace, withFolder } from './program.ts';

const MIB = 1024 * 1024;
const CLUSTER = 65536;
const SIZE: number = 16 * MIB;
/** Where a client reads, in its order. */
const PLACES: readonly number[] = [9, 2, 12, 5].map((place) => place * MIB);

interface Scene {
  folder: string;
  nginx: NginxServer;
  base: string;
}

function withBase(use: (scene: Scene) => Promise<void>): Promise<void> {
  return withFolder(async (folder) => {
    const content = new Uint8Array(SIZE).map((_, i) => (i * 31) >> 7);
    await writeFile(join(folder, 'base.raw'), content);
    const nginx = await startNginx({ root: folder });
    try {
      await use({ folder, nginx, base: `${nginx.url}/base.raw` });
    } finally {
      await nginx.stop();
    }
  });
}

/** Serves a disk by HTTP, lets a client use it, and stops it as a user does. */
async function served(
  { folder, base }: Scene,
  args: readonly string[],
  use: (url: string, started: Started) => Promise<void>,
): Promise<{ stderr: string; exitCode: number }> {
  const started = startMillrace(['serve', '--listen', '0', '--create', '--base', base, ...args], {
    cwd: folder,
  });
  try {
    await started.until('stderr', /serving until/);
    await started.until('stdout', /http:\S+\n/);
    await use(/http:\S+/.exec(started.output.stdout)![0], started);
    started.child.kill('SIGINT');
    return await started.ended;
  } finally {
    started.child.kill('SIGKILL');
    await started.ended;
  }
}

async function read(url: string, offset: number, length = 4096): Promise<void> {
  const headers = { Range: `bytes=${offset}-${offset + length - 1}` };
  const response = await fetch(`${url}/data`, { headers });
  expect((await response.arrayBuffer()).byteLength).toBe(length);
}

async function boot(url: string): Promise<void> {
  for (const place of PLACES) await read(url, place);
}

/** Clusters that an overlay has, as places. */
async function populated(folder: string, overlay: string): Promise<number[]> {
  const args = ['map', overlay, '--json'];
  const map = await millrace(args, { cwd: folder });
  const extents = JSON.parse(map.stdout) as { start: number; length: number; depth: number }[];
  return extents
    .filter(({ depth }) => depth === 0)
    .flatMap(({ start, length }) =>
      Array.from({ length: length / CLUSTER }, (_, i) => start + i * CLUSTER),
    );
}

async function asked(nginx: NginxServer, path: string): Promise<number[]> {
  return (await nginx.log()).filter(({ uri }) => uri === path).map(({ status }) => status);
}

describeWithPeer(['nginx'], 'boot profiles on the command line', () => {
  it('are recorded, stand beside the image, and are fetched ahead by the next machine', () =>
    withBase(async (scene) => {
      const { folder, nginx } = scene;
      const recorded = await served(scene, ['--record', 'boot.profile', 'one.qcow2'], boot);
      expect(recorded.exitCode).toBe(130);
      expect(recorded.stderr).toMatch(
        /vda: the boot read 16 KiB in 4 places within \S+ s, and waited for its base 4 times; a profile of \d+ B \(boot\.profile\) makes it wait \S+ s instead of \S+ s at 50 ms and 200 Mbit\/s/,
      );
      // It was looked for once, and nothing was said of it.
      expect(await asked(nginx, '/base.raw.profile')).toEqual([404]);
      expect(recorded.stderr).not.toMatch(/404|profile is not/);
      const profile = await decodeProfile(await readFile(join(folder, 'boot.profile')));
      expect(profile.ranges.map(({ offset }) => offset)).toEqual(PLACES);
      expect(profile.base.identity).toMatch(/^etag /);

      await copyFile(join(folder, 'boot.profile'), join(folder, 'base.raw.profile'));
      await served(scene, ['two.qcow2'], async () => {
        // All of it is on its way at once; what a reader asks for then comes after it.
        while ((await nginx.log()).length < 12) await new Promise((next) => setTimeout(next, 20));
      });
      expect(await populated(folder, 'two.qcow2')).toEqual(PLACES.toSorted((a, b) => a - b));
      expect((await asked(nginx, '/base.raw.profile')).slice(1)).toEqual([206]);

      const before = await asked(nginx, '/base.raw.profile');
      await served(scene, ['--profile', 'none', 'three.qcow2'], (url) => read(url, 3 * MIB));
      expect(await asked(nginx, '/base.raw.profile')).toEqual(before);
      // What lies around the read may have come, too, and nothing of the profile.
      const places = await populated(folder, 'three.qcow2');
      expect(places).toContain(3 * MIB);
      expect(places.filter((place) => place < 3 * MIB || place >= 3.5 * MIB)).toEqual([]);
    }));

  it('end after their time or a quiet guest, while the disk is served on', () =>
    withBase(async (scene) => {
      const args = [
        '--record',
        'a.profile',
        '--record-for',
        '0.3s',
        '--profile',
        'none',
        'a.qcow2',
      ];
      const { stderr } = await served(scene, args, async (url, started) => {
        await boot(url);
        await started.until('stderr', /the boot read/);
        expect((await stat(join(scene.folder, 'a.profile'))).size).toBeGreaterThan(20);
        await read(url, 14 * MIB);
      });
      expect(stderr.match(/the boot read/g)).toHaveLength(1);
      const { ranges } = await decodeProfile(await readFile(join(scene.folder, 'a.profile')));
      // However slow the reader was: it began with the first read, and ended before the last.
      expect(ranges[0].offset).toBe(PLACES[0]);
      expect(ranges.map(({ offset }) => offset)).not.toContain(14 * MIB);
    }));

  it('say so when nothing was read, and never write over a file', () =>
    withBase(async (scene) => {
      const { folder } = scene;
      const args = ['--record', 'a.profile', 'a.qcow2'];
      const { stderr } = await served(scene, args, async () => {});
      expect(stderr).toMatch(/vda: no profile was written: nothing was recorded/);
      await writeFile(join(folder, 'a.profile'), 'mine');
      const refused = await millrace(['serve', '--listen', '0', ...args], { cwd: folder });
      expect(refused.exitCode).toBe(1);
      expect(refused.stderr).toMatch(/^millrace: 'a\.profile' is there already.*\n$/);
    }));

  it('of another base, or damaged, are told and left alone', () =>
    withBase(async (scene) => {
      const { folder, nginx } = scene;
      await served(scene, ['--record', 'boot.profile', 'one.qcow2'], boot);
      const good = await readFile(join(folder, 'boot.profile'));
      await writeFile(join(folder, 'base.raw.profile'), good.subarray(0, good.length - 5));
      const damaged = await served(scene, ['two.qcow2'], async (url, started) => {
        await started.until('stderr', /is not used/);
        await read(url, 0);
      });
      expect(damaged.stderr).toMatch(/vda: .*is not used: .*base\.raw\.profile is damaged/);
      await writeFile(join(folder, 'base.raw'), new Uint8Array(SIZE + 512));
      await writeFile(join(folder, 'base.raw.profile'), good);
      const other = await served(scene, ['three.qcow2'], (_, started) =>
        started.until('stderr', /is not used/),
      );
      expect(other.stderr).toMatch(
        /base\.raw\.profile is not used: it was recorded on another base/,
      );
      expect(await populated(folder, 'three.qcow2')).toEqual([]);
      // One that is named must be there.
      const args = ['serve', '--listen', '0', '--profile'];
      for (const [place, message] of [
        ['missing', /no such file|does not exist|ENOENT|there is no/i],
        [`${nginx.url}/missing`, /404/],
        ['base.raw', /is no boot profile/],
      ] as const) {
        const refused = await millrace([...args, place, 'three.qcow2'], { cwd: folder });
        expect(refused.exitCode).toBe(1);
        expect(refused.stderr).toMatch(message);
        expect(refused.stderr.trim().split('\n')).toHaveLength(1);
      }
    }));

  it('are shown and merged', () =>
    withBase(async (scene) => {
      const { folder } = scene;
      const inFolder = { cwd: folder };
      await served(scene, ['--record', 'a.profile', 'a.qcow2'], boot);
      await served(scene, ['--record', 'b.profile', 'b.qcow2'], async (url) => {
        await read(url, 14 * MIB);
        await boot(url);
      });
      const shown = await millrace(['profile', 'show', 'a.profile'], inFolder);
      expect(shown.stdout).toContain('read: 16 KiB (0.098 % of the disk) in 4 places');
      expect(shown.stdout.match(/^ {2}\|[ ░▒▓█]{64}\|$/gm)).toHaveLength(4);
      expect(shown.stdout).toMatch(/0\.00 s {7}9437184 {10}4096/);
      const out = ['-o', 'both.profile'];
      const merged = await millrace(
        ['profile', 'merge', 'a.profile', 'b.profile', ...out],
        inFolder,
      );
      expect(merged.stdout).toMatch(/^both\.profile: \d+ B, 20 KiB in 5 places\n$/);
      const json = await millrace(['profile', 'show', '--json', 'both.profile'], inFolder);
      const { ranges, boots } = JSON.parse(json.stdout);
      // What both have first.
      expect(ranges.map(({ offset }: { offset: number }) => offset)).toEqual([...PLACES, 14 * MIB]);
      expect(boots).toBe(2);
      const again = await millrace(['profile', 'merge', 'a.profile', ...out], inFolder);
      expect([again.exitCode, again.stderr]).toEqual([1, expect.stringMatching(/both\.profile/)]);
      const none = await millrace(['profile', 'show', 'base.raw'], inFolder);
      expect([none.exitCode, none.stderr]).toEqual([
        1,
        expect.stringMatching(/is no boot profile/),
      ]);
      await writeFile(join(folder, 'base.raw'), new Uint8Array(SIZE - 512));
      await served(scene, ['--record', 'c.profile', 'c.qcow2'], boot);
      const mixed = ['profile', 'merge', 'a.profile', 'c.profile', '-o', 'd.profile'];
      expect((await millrace(mixed, inFolder)).stderr).toMatch(/are of different bases/);
    }));

  it('give a job its order', () =>
    withBase(async (scene) => {
      const { folder, nginx, base } = scene;
      const inFolder = { cwd: folder };
      await served(scene, ['--record', 'a.profile', 'a.qcow2'], boot);
      await millrace(['create', 'b.qcow2', '--base', base], inFolder);
      const already = (await nginx.log()).length;
      const streamed = await millrace(['stream', 'b.qcow2', '--order', 'a.profile'], inFolder);
      expect(streamed.stdout).toMatch(/complete/);
      const starts = (await nginx.log())
        .slice(already)
        .map(({ range }) => Number(/bytes=(\d+)-/.exec(range)?.[1]));
      expect(starts.some((start) => start >= 2 * MIB)).toBe(true);
      const wrong = await millrace(['stream', 'a.qcow2', '--order', 'missing'], inFolder);
      expect([wrong.exitCode, wrong.stderr.trim().split('\n').length]).toEqual([1, 1]);
      const sequential = ['stream', 'a.qcow2', '--order', 'sequential'];
      expect((await millrace(sequential, inFolder)).exitCode).toBe(0);
    }));
});
