/** commit and rebase, held against what qemu-img makes of the same images. */
import { copyFile, mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { Runtime } from '../../hosts/api/runtime.ts';
import { commitWith } from '../../hosts/disk/commit.ts';
import { commitDisk, createDisk, openDisk, rebaseDisk } from '../../hosts/node/index.ts';
import { nodeRuntime } from '../../hosts/node/runtime.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, createImage, info, qemuImg, qemuIo, recordBase } from '../support/qemu.ts';

const MIB = 1024 * 1024;
const SIZE = 16 * MIB;

let dir: string;
const at = (name: string): string => join(dir, name);

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'millrace-commit-'));
});
afterEach(async () => {
  await rm(dir, { recursive: true });
});

interface Shape {
  name: string;
  baseFormat: 'raw' | 'qcow2';
  baseSize?: number;
  with?: Record<string, string | number>;
}

const shapes: Shape[] = [
  { name: 'a qcow2 base', baseFormat: 'qcow2' },
  { name: 'a raw base', baseFormat: 'raw' },
  { name: 'a smaller qcow2 base', baseFormat: 'qcow2', baseSize: 9 * MIB + 512 },
  { name: 'a smaller raw base', baseFormat: 'raw', baseSize: 9 * MIB + 512 },
  { name: 'clusters of 4 KiB', baseFormat: 'qcow2', with: { cluster_size: 4096 } },
  { name: 'extended L2 entries', baseFormat: 'qcow2', with: { extended_l2: 'on' } },
  { name: 'version 2', baseFormat: 'qcow2', with: { compat: '0.10' } },
];

/** A base with data, and an overlay with data, zeros and holes over it. */
async function makePair(
  { baseFormat, baseSize = SIZE, with: options }: Shape,
  base = 'base',
  overlay = 'overlay',
): Promise<void> {
  await createImage(at(base), { format: baseFormat, size: baseSize });
  await qemuIo(
    at(base),
    ['write -P 1 0 3M', 'write -P 2 5M 100k', `write -P 3 ${baseSize - 65536} 64k`],
    { format: baseFormat },
  );
  await createImage(at(overlay), { size: SIZE, base: at(base), baseFormat, with: options });
  await qemuIo(at(overlay), [
    'write -P 17 1000k 300k',
    'write -z 2M 512k',
    'write -P 18 5000k 77k',
    `write -P 19 ${SIZE - 512} 512`,
    'write -P 20 10M 1M',
  ]);
}

describeWithPeer(['qemu-img', 'qemu-io'], 'commit', () => {
  it.each(shapes)('makes of $name what qemu-img makes of it', async (shape) => {
    await makePair(shape);
    for (const name of ['base', 'overlay']) await copyFile(at(name), at(`${name}.qemu`));
    await recordBase(at('overlay.qemu'), at('base.qemu'), shape.baseFormat);
    await qemuImg(['convert', '-O', 'raw', at('overlay'), at('expected')]);
    await qemuImg(['commit', '-q', '-f', 'qcow2', at('overlay.qemu')]);
    const report = await commitDisk({ overlay: at('overlay') });
    expect(report).toMatchObject({ base: at('base'), emptied: true });
    const formats = { formatA: shape.baseFormat, formatB: shape.baseFormat };
    expect(await compare(at('base'), at('base.qemu'), formats)).toMatchObject({ identical: true });
    expect(
      await compare(at('base'), at('expected'), { formatA: shape.baseFormat, formatB: 'raw' }),
    ).toMatchObject({ identical: true });
    expect(
      await compare(at('overlay'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
    ).toMatchObject({ identical: true });
    expect((await check(at('overlay'))).exitCode).toBe(0);
    if (shape.baseFormat === 'qcow2') expect((await check(at('base'))).exitCode).toBe(0);
    const disk = await openDisk({ overlay: at('overlay') });
    expect(await disk.remaining()).toBe(SIZE);
    await disk.close();
  });

  it("keeps the overlay's data when asked to", async () => {
    await makePair(shapes[0]);
    await qemuImg(['convert', '-O', 'raw', at('overlay'), at('expected')]);
    const before = await openDisk({ overlay: at('overlay') });
    const remaining = await before.remaining();
    await before.close();
    expect(await commitDisk({ overlay: at('overlay'), keep: true })).toMatchObject({
      emptied: false,
    });
    const after = await openDisk({ overlay: at('overlay') });
    expect(await after.remaining()).toBe(remaining);
    await after.close();
    expect(
      await compare(at('base'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
    ).toMatchObject({ identical: true });
  });

  it('that was interrupted can be run again, or left: the disk shows the same', async () => {
    await createImage(at('base'), { size: SIZE });
    await qemuIo(at('base'), ['write -P 1 0 12M']);
    const made = await createDisk({ overlay: at('overlay'), base: at('base') });
    await made.close();
    await qemuIo(at('overlay'), ['write -P 17 0 9M', 'write -P 18 11M 1M']);
    await qemuImg(['convert', '-O', 'raw', at('overlay'), at('expected')]);
    const stops: Runtime = {
      ...nodeRuntime,
      async openOverlay(location, mode) {
        const file = await nodeRuntime.openOverlay(location, mode);
        if (location === at('base')) {
          const write = file.write.bind(file);
          file.write = (offset, from) => {
            if (offset > 5 * MIB && from.length > 4096)
              throw new MillraceError('EIO', 'interrupted');
            return write(offset, from);
          };
        }
        return file;
      },
    };
    await expect(commitWith(stops, { overlay: at('overlay') })).rejects.toThrow(/interrupted/);
    const same = { formatA: 'qcow2', formatB: 'raw' } as const;
    expect(await compare(at('overlay'), at('expected'), same)).toMatchObject({ identical: true });
    expect(await compare(at('base'), at('expected'), same)).toMatchObject({ identical: false });
    await (await openDisk({ overlay: at('overlay') })).close();
    expect(await commitDisk({ overlay: at('overlay') })).toMatchObject({ emptied: true });
    expect(await compare(at('base'), at('expected'), same)).toMatchObject({ identical: true });
    for (const name of ['base', 'overlay']) expect((await check(at(name))).exitCode).toBe(0);
    // And from now on the base is again the one that it was when the commit ended.
    await qemuIo(at('base'), ['write -P 9 0 64k']);
    await expect(openDisk({ overlay: at('overlay') })).rejects.toMatchObject({ code: 'ECHANGED' });
  });

  it.each(shapes.slice(2, 4))('lets go of $name that cannot grow', async (shape) => {
    await makePair(shape);
    await qemuImg(['convert', '-O', 'raw', at('overlay'), at('expected')]);
    const full: Runtime = {
      ...nodeRuntime,
      async openOverlay(location, mode) {
        const file = await nodeRuntime.openOverlay(location, mode);
        const fail = (): void => {
          throw new MillraceError('ENOSPC', 'no space left');
        };
        return location === at('base')
          ? Object.assign(file, { write: fail, truncate: fail })
          : file;
      },
    };
    await expect(commitWith(full, { overlay: at('overlay') })).rejects.toMatchObject({
      code: 'ENOSPC',
    });
    // A lock that was kept would refuse this.
    expect(await commitDisk({ overlay: at('overlay') })).toMatchObject({ emptied: true });
    expect(
      await compare(at('base'), at('expected'), { formatA: shape.baseFormat, formatB: 'raw' }),
    ).toMatchObject({ identical: true });
  });

  it('that could not write the base leaves another one noticed as before', async () => {
    await makePair(shapes[0]);
    await (await createDisk({ overlay: at('ours'), base: at('base') })).close();
    const user = await openDisk({ overlay: at('base') });
    await expect(commitDisk({ overlay: at('ours') })).rejects.toMatchObject({ code: 'EBUSY' });
    await user.close();
    await (await openDisk({ overlay: at('ours') })).close();
    await qemuIo(at('base'), ['write -P 9 0 64k']);
    await expect(openDisk({ overlay: at('ours') })).rejects.toMatchObject({ code: 'ECHANGED' });
  });

  it('writes all that stands above a deeper base into it', async () => {
    await makePair(shapes[0], 'base', 'middle');
    await createImage(at('overlay'), { size: SIZE, base: at('middle'), baseFormat: 'qcow2' });
    await qemuIo(at('overlay'), ['write -P 30 1100k 10k', 'write -z 10M 64k', 'write -P 31 0 1k']);
    await qemuImg(['convert', '-O', 'raw', at('overlay'), at('expected')]);
    expect(
      await commitDisk({ overlay: at('overlay'), base: at('base'), followChain: true }),
    ).toMatchObject({ base: at('base'), emptied: false });
    expect(
      await compare(at('base'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
    ).toMatchObject({ identical: true });
    expect(
      await compare(at('overlay'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
    ).toMatchObject({ identical: true });
    expect((await check(at('base'))).exitCode).toBe(0);
  });

  it('finds the base by any spelling, and keeps the overlay that was told which it is', async () => {
    await mkdir(at('sub'));
    await symlink('sub', at('link'));
    const here = process.cwd();
    process.chdir(dir);
    try {
      for (const base of ['base', 'sub/base', './sub/base', at('sub/base'), 'link/base', 1, '1']) {
        await rm('sub/base', { force: true });
        await createImage('sub/base', { size: MIB });
        await createImage(at('sub/top'), { size: MIB, base: 'base', baseFormat: 'qcow2' });
        await qemuIo('sub/top', ['write -P 17 0 64k']);
        expect(await commitDisk({ overlay: 'sub/top', base })).toEqual({
          base: 'sub/base',
          bytes: 65536,
          emptied: false,
        });
        const disk = await openDisk({ overlay: 'sub/top', base: null });
        expect(await disk.remaining()).toBe(MIB - 65536);
        await disk.close();
      }
      expect(await commitDisk({ overlay: 'sub/top', base: 'base', keep: false })).toMatchObject({
        emptied: true,
      });
    } finally {
      process.chdir(here);
    }
  });

  it('and stream take a path from where the process stands for that file', async () => {
    await mkdir(at('sub'));
    const here = process.cwd();
    process.chdir(dir);
    try {
      // Two images of one chain by the same name in different folders.
      await createImage('base', { size: MIB });
      await createImage(at('sub/base'), { size: MIB, base: '../base', baseFormat: 'qcow2' });
      await createImage(at('sub/top'), { size: MIB, base: 'base', baseFormat: 'qcow2' });
      await qemuIo('sub/top', ['write -P 17 0 64k']);
      expect(
        await commitDisk({ overlay: 'sub/top', base: 'base', followChain: true }),
      ).toMatchObject({ base: 'base' });
      const disk = await openDisk({ overlay: 'sub/top', followChain: true });
      await disk.stream({ base: join('sub', '..', 'base') });
      expect((await disk.images()).map(({ name }) => name)).toEqual(['sub/top', 'base']);
      await expect(disk.stream({ base: 'sub/base' })).rejects.toMatchObject({
        code: 'EINVAL',
        message: expect.stringContaining("which has 'base'"),
      });
      await disk.close();
    } finally {
      process.chdir(here);
    }
  });

  it('is refused where there is no such base', async () => {
    await makePair(shapes[0]);
    await expect(commitDisk({ overlay: at('overlay'), base: 2 })).rejects.toMatchObject({
      code: 'EINVAL',
    });
    await expect(commitDisk({ overlay: at('overlay'), base: 'other' })).rejects.toMatchObject({
      code: 'EINVAL',
      message: `cannot commit ${at('overlay')} into 'other': there is no such image in the chain below it, which has '${at('base')}'`,
    });
    await createImage(at('alone'), { size: MIB });
    await expect(commitDisk({ overlay: at('alone') })).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringContaining('it has no base'),
    });
  });
});

describeWithPeer(['qemu-img', 'qemu-io'], 'rebase', () => {
  /** Another base: partly the same, partly different, longer or shorter. */
  async function makeNext(format: 'raw' | 'qcow2', size: number): Promise<void> {
    await createImage(at('next'), { format, size });
    await qemuIo(
      at('next'),
      ['write -P 1 0 1M', 'write -P 9 1M 1M', 'write -P 8 6M 200k', 'write -P 2 5M 50k'],
      { format },
    );
  }

  it.each(
    shapes.flatMap((shape) => [
      { ...shape, nextSize: SIZE },
      { ...shape, nextSize: 7 * MIB + 512 },
    ]),
  )('from $name onto one of $nextSize bytes leaves the disk as it is', async (shape) => {
    await makePair(shape);
    await makeNext(shape.baseFormat, shape.nextSize);
    await copyFile(at('overlay'), at('overlay.qemu'));
    await qemuImg(['convert', '-O', 'raw', at('overlay'), at('expected')]);
    await qemuImg([
      'rebase',
      '-f',
      'qcow2',
      '-b',
      at('next'),
      '-F',
      shape.baseFormat,
      at('overlay.qemu'),
    ]);
    expect(await rebaseDisk({ overlay: at('overlay'), base: at('next') })).toMatchObject({
      base: at('next'),
    });
    await rm(at('base'));
    expect(
      await compare(at('overlay'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
    ).toMatchObject({ identical: true });
    expect(
      await compare(at('overlay'), at('overlay.qemu'), { formatA: 'qcow2', formatB: 'qcow2' }),
    ).toMatchObject({ identical: true });
    expect((await check(at('overlay'))).exitCode).toBe(0);
    expect(await info(at('overlay'))).toMatchObject({
      'full-backing-filename': at('next'),
      'backing-filename-format': shape.baseFormat,
    });
  });

  it('onto no base makes the overlay stand alone', async () => {
    await makePair(shapes[0]);
    await qemuImg(['convert', '-O', 'raw', at('overlay'), at('expected')]);
    expect(await rebaseDisk({ overlay: at('overlay'), base: null })).toMatchObject({ base: null });
    await rm(at('base'));
    expect(
      await compare(at('overlay'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
    ).toMatchObject({ identical: true });
    expect((await info(at('overlay')))['backing-filename']).toBeUndefined();
  });

  it('changes only the reference when that is all that is asked for, and needs no old base', async () => {
    await makePair(shapes[0]);
    await qemuImg(['convert', '-O', 'raw', at('overlay'), at('expected')]);
    await copyFile(at('base'), at('moved'));
    await rm(at('base'));
    expect(
      await rebaseDisk({ overlay: at('overlay'), base: at('moved'), unsafe: true }),
    ).toMatchObject({ base: at('moved'), bytes: 0 });
    expect(
      await compare(at('overlay'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
    ).toMatchObject({ identical: true });
    expect((await check(at('overlay'))).exitCode).toBe(0);
  });

  it('keeps the format that is recorded when only the reference is changed, unless one is given', async () => {
    await createImage(at('base'), { format: 'raw', size: SIZE });
    await createImage(at('overlay'), { size: SIZE, base: at('base'), baseFormat: 'raw' });
    // A guest can write anything to a raw disk, what looks like an image as well.
    await createImage(at('moved'), { size: 64 * 1024 });
    const unsafe = { overlay: at('overlay'), base: at('moved'), unsafe: true };
    expect(await rebaseDisk(unsafe)).toMatchObject({ baseFormat: 'raw' });
    expect(await info(at('overlay'))).toMatchObject({ 'backing-filename-format': 'raw' });
    expect(await rebaseDisk({ ...unsafe, baseFormat: 'qcow2' })).toMatchObject({
      baseFormat: 'qcow2',
    });
    expect(await info(at('overlay'))).toMatchObject({ 'backing-filename-format': 'qcow2' });
    const before = await readFile(at('overlay'));
    await expect(rebaseDisk({ ...unsafe, base: at('base') })).rejects.toMatchObject({
      message: expect.stringMatching(/base: .*not a qcow2 image.*--base-format\)$/),
    });
    expect(before.equals(await readFile(at('overlay')))).toBe(true);
  });

  it('onto a base with a backing file of its own opens that only when asked to', async () => {
    await makePair(shapes[0]);
    await qemuImg(['convert', '-O', 'raw', at('overlay'), at('expected')]);
    await createImage(at('below'), { format: 'raw', size: SIZE });
    await qemuIo(at('below'), ['write -P 7 0 3M'], { format: 'raw' });
    await createImage(at('next'), { size: SIZE, base: at('below'), baseFormat: 'raw' });
    const before = await readFile(at('overlay'));
    const refused = {
      code: 'EUNSUPPORTED',
      message: expect.stringMatching(
        /next has a backing file of its own, '.*below', .* \(followChain, --follow-chain\)$/,
      ),
    };
    await expect(rebaseDisk({ overlay: at('overlay'), base: at('next') })).rejects.toMatchObject(
      refused,
    );
    expect(before.equals(await readFile(at('overlay')))).toBe(true);
    expect(
      await rebaseDisk({ overlay: at('overlay'), base: at('next'), followChain: true }),
    ).toMatchObject({ base: at('next') });
    expect(
      await compare(at('overlay'), at('expected'), { formatA: 'qcow2', formatB: 'raw' }),
    ).toMatchObject({ identical: true });
  });

  it('is refused onto the overlay itself, by whatever path, or onto what stands on it', async () => {
    await makePair(shapes[0]);
    await createImage(at('above'), { size: SIZE, base: at('overlay'), baseFormat: 'qcow2' });
    await symlink(at('overlay'), at('link'));
    const before = await readFile(at('overlay'));
    for (const base of [
      at('overlay'),
      join(dir, '.', 'x', '..', 'overlay'),
      relative(process.cwd(), at('overlay')),
      at('link'),
      at('above'),
    ]) {
      const unsafe = base !== at('above');
      await expect(
        rebaseDisk({ overlay: at('overlay'), base, followChain: true }),
      ).rejects.toMatchObject({
        code: 'EINVAL',
        message: expect.stringMatching(/the overlay itself/),
      });
      if (unsafe)
        await expect(rebaseDisk({ overlay: at('overlay'), base, unsafe })).rejects.toMatchObject({
          code: 'EINVAL',
        });
    }
    expect(before.equals(await readFile(at('overlay')))).toBe(true);
  });

  it('is refused at once where the header has no room for the name of the new base', async () => {
    await createImage(at('alone'), { size: MIB, with: { cluster_size: 512 } });
    const long = join(dir, ...Array<string>(3).fill('x'.repeat(150)));
    await mkdir(dirname(long), { recursive: true });
    await createImage(long, { format: 'raw', size: MIB });
    const before = await readFile(at('alone'));
    await expect(rebaseDisk({ overlay: at('alone'), base: long })).rejects.toMatchObject({
      code: 'EUNSUPPORTED',
      message: expect.stringContaining('header'),
    });
    expect((await info(at('alone')))['backing-filename']).toBeUndefined();
    expect(before.equals(await readFile(at('alone')))).toBe(true);
  });
});

describe('progress', () => {
  it('of a commit and of a rebase is told to the end of the disk', async () => {
    const told: [done: number, total: number][] = [];
    const onProgress = (done: number, total: number): void => void told.push([done, total]);
    const overlay = at('vm.qcow2');
    await (await createDisk({ overlay: at('base.qcow2'), size: SIZE })).close();
    await using disk = await createDisk({ overlay, base: at('base.qcow2') });
    await disk.write(SIZE - 512, new Uint8Array(512).fill(1));
    await disk.close();
    await commitDisk({ overlay, onProgress });
    expect(told.at(-1)).toEqual([SIZE, SIZE]);
    told.length = 0;
    await rebaseDisk({ overlay, base: null, onProgress });
    expect(told.map(([done]) => done)).toEqual(
      [...told.map(([done]) => done)].sort((a, b) => a - b),
    );
    expect(told.at(-1)).toEqual([SIZE, SIZE]);
  });
});
