/** The words of `qemu-img`: the same options, output and exit codes. */
import { existsSync } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { info, qemuIo } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import { millraceHere, withFolder } from './program.ts';

/** As `qemu-img convert -p` tells them. */
const PERCENTS = /^( {4}\(\d+\.00\/100%\)\r)+ {4}\(100\.00\/100%\)\n$/;
const LAZY = /lazy refcounts: true/;
const MIB = 1024 * 1024;

/** Ours and QEMU's answers to the same command line; `ours` is what only we need. */
async function both(
  args: string[],
  ours: string[] = [],
): Promise<
  [ours: { exitCode: number; stdout: string }, theirs: { exitCode: number; stdout: string }]
> {
  const told = await millraceHere(...args, ...ours);
  const { exitCode, stdout } = await run('qemu-img', args, { exitCodes: [0, 1, 2, 3, 4, 63] });
  return [
    { exitCode: told.exitCode, stdout: told.stdout },
    { exitCode, stdout },
  ];
}

/** Two overlays over a raw base, a snapshot and a bitmap, in the current folder. */
async function inScene(use: (folder: string) => Promise<void>): Promise<void> {
  const before = process.cwd();
  await withFolder(async (folder) => {
    process.chdir(folder);
    try {
      const base = Buffer.alloc(3 * MIB);
      base.set(makeContent('random', 1, 100_000), MIB);
      await writeFile('b.raw', base);
      await millraceHere(
        ...'create -f qcow2 -b b.raw -F raw'.split(' '),
        ...'-o cluster_size=4k,refcount_bits=32 -q o.qcow2 5M'.split(' '),
      );
      await millraceHere(
        ...'create -f qcow2 -b o.qcow2 -F qcow2 --follow-chain p.qcow2'.split(' '),
      );
      await qemuIo(join(folder, 'p.qcow2'), ['write -P 9 2M 300k', 'write -z 1M 64k']);
      await use(folder);
    } finally {
      process.chdir(before);
    }
  });
}

describeWithPeer(['qemu-img', 'qemu-io'], 'as qemu-img', () => {
  it('create takes -f, -b, -F, -o and a size', () =>
    inScene(async (folder) => {
      expect(await info(join(folder, 'o.qcow2'))).toMatchObject({
        'virtual-size': 5 * MIB,
        'cluster-size': 4096,
        'backing-filename': 'b.raw',
        'backing-filename-format': 'raw',
        'format-specific': { data: { 'refcount-bits': 32 } },
      });
      const asked = 'size=7M,extended_l2=on,backing_file=b.raw,backing_fmt=raw,compat=v3';
      expect(await millraceHere('create', '-o', asked, 'q.qcow2')).toMatchObject({ exitCode: 0 });
      expect(await info(join(folder, 'q.qcow2'))).toMatchObject({
        'virtual-size': 7 * MIB,
        'backing-filename': 'b.raw',
        'format-specific': { data: { 'extended-l2': true } },
      });
    }));

  it(
    'map tells a range, compare and measure the same',
    () =>
      inScene(async () => {
        const follow = ['--follow-chain'];
        for (const range of [
          [],
          ['--start-offset=1M', '--max-length=1200000'],
          ['-s', '2M', '-l', '10M'],
        ]) {
          const [ours, theirs] = await both(['map', '--output=json', ...range, 'p.qcow2'], follow);
          const plain = ours.stdout.replaceAll(', "compressed": false', '');
          expect({ range, ...ours, stdout: plain }).toEqual({ range, ...theirs });
        }
        for (const args of [
          ['compare', 'p.qcow2', 'o.qcow2'],
          ['compare', 'o.qcow2', 'b.raw'],
          ['compare', '-q', 'p.qcow2', 'o.qcow2'],
          ['compare', '-f', 'raw', '-F', 'raw', 'b.raw', 'b.raw'],
          ['compare', 'p.qcow2', 'missing.qcow2'],
          ['measure', '-O', 'qcow2', 'p.qcow2'],
          ['measure', '-O', 'qcow2', 'b.raw'],
          ['measure', '-O', 'qcow2', '-o', 'cluster_size=4k', '--output=json', 'p.qcow2'],
          ['measure', '-O', 'qcow2', '-o', 'extended_l2=on', 'p.qcow2'],
          ['measure', 'p.qcow2'],
        ]) {
          const [ours, theirs] = await both(args, follow);
          expect({ args, ...ours }).toEqual({ args, ...theirs });
        }
        for (const size of ['0', '512', '10G', '3T']) {
          const [ours, theirs] = await both(['measure', '--size', size, '-O', 'qcow2']);
          expect({ size, ...ours }).toEqual({ size, ...theirs });
        }
      }),
    60_000,
  );

  it('measure counts bitmaps, snapshot lists, and check and info are quiet', () =>
    inScene(async () => {
      await run('qemu-img', ['bitmap', '--add', 'p.qcow2', 'backup']);
      await run('qemu-img', ['snapshot', '-c', 'one', 'p.qcow2']);
      for (const [args, more] of [
        [['measure', '-O', 'qcow2', 'p.qcow2'], ['--follow-chain']],
        [['snapshot', '-l', 'p.qcow2'], []],
        [['snapshot', '-l', 'o.qcow2'], []],
        [['check', '-q', '-f', 'qcow2', 'p.qcow2'], []],
      ] as const) {
        const [ours, theirs] = await both([...args], [...more]);
        expect({ args, ...ours }).toEqual({ args, ...theirs });
      }
    }));

  it(
    'create and convert take -o lazy_refcounts, and whatever writes the image keeps it',
    () =>
      inScene(async (folder) => {
        const lazy = 'lazy_refcounts=on';
        await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', lazy, 'theirs.qcow2', '5M']);
        const bits = async (image: string): Promise<string> =>
          (await readFile(join(folder, image))).toString('hex', 72, 96);
        const expectLazy = async (image: string): Promise<void> => {
          expect({ image, bits: await bits(image) }).toEqual({
            image,
            bits: await bits('theirs.qcow2'),
          });
          for (const told of await both(['info', image])) expect(told.stdout).toMatch(LAZY);
          expect((await both(['check', image])).map(({ exitCode }) => exitCode)).toEqual([0, 0]);
        };
        const millraces = async (line: string): Promise<void> =>
          expect({ line, ...(await millraceHere(...line.split(' '))) }).toMatchObject({
            exitCode: 0,
            stderr: '',
          });
        await millraces(`create -o ${lazy} -b b.raw -F raw l.qcow2`);
        await expectLazy('l.qcow2');
        await qemuIo(join(folder, 'l.qcow2'), ['write -P 5 0 200k']);
        for (const line of [
          'resize l.qcow2 5M',
          'check -r all l.qcow2',
          'rebase -b o.qcow2 -F qcow2 --follow-chain l.qcow2',
          'stream --offset 0 --length 1M --follow-chain l.qcow2',
        ]) {
          await millraces(line);
          await expectLazy('l.qcow2');
        }
        await millraces('create -b l.qcow2 -F qcow2 --follow-chain over.qcow2');
        await qemuIo(join(folder, 'over.qcow2'), ['write -P 6 300k 90k']);
        await millraces('commit --follow-chain over.qcow2');
        await expectLazy('l.qcow2');
        for (const how of ['', '-c ']) {
          await millraces(
            `convert --follow-chain -O qcow2 ${how}-o ${lazy} l.qcow2 copy${how.length}`,
          );
          await expectLazy(`copy${how.length}`);
          await run('qemu-img', ['compare', 'l.qcow2', `copy${how.length}`]);
        }
        await millraces(`create -o lazy_refcounts=off no.qcow2 1M`);
        expect((await millraceHere('info', 'no.qcow2')).stdout).toContain('lazy refcounts: false');
      }),
    60_000,
  );

  it('an image with lazy refcounts that QEMU was killed over is right again', () =>
    inScene(async (folder) => {
      await millraceHere('create', '-o', 'lazy_refcounts=on,cluster_size=4k', 'l.qcow2', '8M');
      const killed = ['write -P 65 0 3M', 'flush', 'sigraise 9'].flatMap((step) => ['-c', step]);
      await run('qemu-io', [...killed, 'l.qcow2'], { exitCodes: [137] }).catch((error: Error) =>
        expect(error.message).toMatch(/SIGKILL/),
      );
      expect(await info(join(folder, 'l.qcow2'))).toMatchObject({ 'dirty-flag': true });
      // QEMU did put them off, as the image lets it.
      expect((await both(['check', 'l.qcow2']))[0].exitCode).toBe(2);
      await millraceHere('resize', 'l.qcow2', '9M');
      expect((await both(['check', 'l.qcow2'])).map(({ exitCode }) => exitCode)).toEqual([0, 0]);
      await qemuIo(join(folder, 'l.qcow2'), ['read -P 65 0 3M', 'read -P 0 3M 6M']);
      expect((await millraceHere('info', 'l.qcow2')).stdout).toMatch(LAZY);
    }));

  it('info tells of the chain', () =>
    inScene(async () => {
      const [ours, theirs] = await both(['info', '--backing-chain', '--output=json', 'p.qcow2']);
      const known = (told: { stdout: string }): unknown =>
        (JSON.parse(told.stdout) as Record<string, unknown>[]).map((image) => ({
          ...image,
          remaining: undefined,
        }));
      expect(known(ours)).toEqual(known(theirs));
      const human = (await millraceHere('info', '--backing-chain', 'p.qcow2')).stdout;
      expect(human.match(/^image: .*$/gm)).toEqual([
        'image: p.qcow2',
        'image: o.qcow2',
        'image: b.raw',
      ]);
    }));

  it('resize grows, shrinks when that is asked for, and tells the same', () =>
    inScene(async (folder) => {
      for (const image of ['o.qcow2', 'b.raw'])
        for (const [args, size] of [
          [['+1M'], MIB],
          [['--shrink', '-1M'], -MIB],
          [['8M'], 0],
          [['-1M'], 0],
        ] as const) {
          const format = ['-f', image.endsWith('raw') ? 'raw' : 'qcow2'];
          const before = (await info(join(folder, image)))['virtual-size'];
          const result = await millraceHere(
            'resize',
            ...format,
            ...args.slice(0, -1),
            image,
            args.at(-1)!,
          );
          const after = (await info(join(folder, image)))['virtual-size'];
          if (args[0] === '-1M') {
            expect(result).toMatchObject({
              exitCode: 1,
              stderr: expect.stringContaining('--shrink'),
            });
            expect(after).toBe(before);
          } else {
            expect({ args, ...result }).toMatchObject({
              exitCode: 0,
              stdout: 'Image resized.\n',
              stderr: '',
            });
            expect(after).toBe(size === 0 ? 8 * MIB : before + size);
          }
        }
    }));

  it(
    'convert takes -W, -m, -S and -o, commit -b, -d and -p, rebase -b, -F and -p',
    () =>
      inScene(async (folder) => {
        const follow = '--follow-chain';
        const convert = async (...args: string[]): Promise<void> =>
          expect(await millraceHere('convert', follow, '-q', ...args)).toEqual({
            exitCode: 0,
            stdout: '',
            stderr: '',
          });
        await convert(
          '-W',
          '-m',
          '8',
          '-O',
          'qcow2',
          '-o',
          'cluster_size=4k',
          'p.qcow2',
          'c.qcow2',
        );
        expect((await info(join(folder, 'c.qcow2')))['cluster-size']).toBe(4096);
        await convert('-S', '0', 'p.qcow2', 'full.raw');
        await convert('-S', '4k', 'p.qcow2', 'sparse.raw');
        expect((await stat('full.raw')).blocks * 512).toBeGreaterThanOrEqual(5 * MIB);
        expect((await stat('sparse.raw')).blocks * 512).toBeLessThan(MIB);
        for (const copy of ['c.qcow2', 'full.raw', 'sparse.raw'])
          expect(await millraceHere('compare', follow, 'p.qcow2', copy)).toMatchObject({
            exitCode: 0,
          });
        const committed = 'commit -b o.qcow2 -d -p --follow-chain p.qcow2';
        expect((await millraceHere(...committed.split(' '))).stderr).toMatch(PERCENTS);
        expect(await millraceHere('compare', follow, 'o.qcow2', 'c.qcow2')).toMatchObject({
          exitCode: 0,
        });
        const rebased = 'rebase -b b.raw -F raw -p --follow-chain p.qcow2';
        expect((await millraceHere(...rebased.split(' '))).stderr).toMatch(PERCENTS);
        expect((await info(join(folder, 'p.qcow2')))['backing-filename']).toBe('b.raw');
        expect(await millraceHere('compare', follow, 'p.qcow2', 'c.qcow2')).toMatchObject({
          exitCode: 0,
        });
      }),
    60_000,
  );
});

describe('the command line', () => {
  it('refuses what it does not take, with what to use instead', () =>
    withFolder(async (folder) => {
      for (const [line, told] of [
        ['create -f raw a 1G', /Allowed choices are qcow2/],
        ['create -u -b b a', /-u is not supported: a base is opened/],
        ['create -o compat=0.10 a 1G', /compat=0\.10 is not supported.*qemu-img create/],
        ['create -o compat=0.10,lazy_refcounts=on a 1G', /compat=0\.10 is not supported/],
        ['create -o lazy_refcounts=maybe a 1G', /invalid lazy_refcounts 'maybe'/],
        ['convert -O raw -o lazy_refcounts=on b a', /-o is for a qcow2 target/],
        ['create -o preallocation=full a 1G', /stream --allocate full/],
        ['create -o clusters=1 a 1G', /there is no -o clusters/],
        ['create -o cluster_size=x a 1G', /invalid cluster_size 'x'/],
        ['create --size 1G a 2G', /two sizes/],
        ['convert -c a b', /is not compressed: only a qcow2 copy is \(format, -O qcow2\)/],
        [
          'convert -B base a b',
          /a raw image has no base: only a qcow2 copy has \(format, -O qcow2\)/,
        ],
        ['convert -S 100 a b', /invalid sparse size 100: must be a multiple of 512/],
        ['snapshot -c one a', /only listed/],
        ['compare -s a b', /-s is not supported.*millrace map/],
        ['measure', /give an image, or the --size/],
        [
          'create --base images.example/debian.qcow2 a',
          /did you mean https:\/\/images\.example\/debian\.qcow2\?/,
        ],
        ['info images.example/debian.qcow2', /did you mean https:/],
      ] as const) {
        const { exitCode, stdout, stderr } = await millraceHere(
          ...line.split(' ').map((word) => (word === 'a' ? join(folder, 'a') : word)),
        );
        expect({ line, exitCode, stdout }).toEqual({ line, exitCode: 1, stdout: '' });
        expect(stderr).toMatch(/^millrace: [^\n]+\n$/);
        expect(stderr).toMatch(told);
      }
      expect(existsSync(join(folder, 'a'))).toBe(false);
    }));

  it('shows three examples where nothing is asked for, and helps with each command', async () => {
    const bare = await millraceHere();
    expect(bare).toMatchObject({ exitCode: 1, stdout: '' });
    expect(bare.stderr.match(/^ {2}millrace /gm)).toHaveLength(3);
    const help = await millraceHere('help');
    expect(help).toMatchObject({
      exitCode: 0,
      stderr: '',
      stdout: expect.stringContaining('snapshot'),
    });
    for (const command of ['create', 'resize', 'compare', 'measure', 'snapshot']) {
      const told = await millraceHere('help', command);
      expect(told).toMatchObject({ exitCode: 0, stderr: '' });
      expect(told.stdout).toMatch(
        new RegExp(`^Usage: millrace ${command} .*Example:\n {2}millrace ${command} `, 's'),
      );
    }
    expect(await millraceHere('-V')).toMatchObject({ exitCode: 0, stdout: '0.0.0\n' });
  });

  it('opens the backing file of a base where it is now, as it is made', () =>
    withFolder(async (folder) => {
      const at = (name: string): string => join(folder, name);
      await writeFile(at('b.raw'), makeContent('text', 1, MIB));
      await millraceHere(
        'create',
        at('mid.qcow2'),
        '--base',
        at('b.raw'),
        '--record-base',
        '/nowhere/b.raw',
      );
      const args = ['create', at('o.qcow2'), '--base', at('mid.qcow2'), '--follow-chain'];
      expect(await millraceHere(...args)).toMatchObject({ exitCode: 1 });
      expect(await millraceHere(...args, '--from', at('b.raw'))).toMatchObject({
        exitCode: 0,
        stderr: '',
      });
    }));
});
