/**
 * Bad input: each gives one clear line and a non-zero exit, and leaves the overlay as it was, or at
 * least sound. What is wrong with an image is written into one that qemu-img made.
 */
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, convertImage, createImage, qemuImg, qemuIo } from '../support/qemu.ts';
import type { RunResult } from '../support/run.ts';
import { run } from '../support/run.ts';
import { millrace, startMillrace, withFolder } from './program.ts';

const MIB = 1024 * 1024;
const CLUSTER = 65536;
const SIZE = 4 * MIB;
/**
 * Places in the header (docs/interop/qcow2.txt), and where qemu-img puts the tables of a new image
 * with clusters of 64 KiB.
 */
const AT = {
  version: 4,
  backingOffset: 8,
  backingBytes: 16,
  clusterBits: 20,
  size: 24,
  encryption: 32,
  l1Entries: 36,
  l1Offset: 40,
  refcountTable: 48,
  refcountTableClusters: 56,
  snapshots: 60,
  snapshotsOffset: 64,
  incompatible: 72,
  refcountOrder: 96,
  headerLength: 100,
  compression: 104,
};
const L1 = 3 * CLUSTER;
const L2 = 4 * CLUSTER;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;

interface Damage {
  what: string;
  at: number;
  value: number | bigint;
  message: RegExp;
}

const u32 = (what: string, at: number, value: number, message: RegExp): Damage => ({
  what,
  at,
  value,
  message,
});
const u64 = (what: string, at: number, value: bigint, message: RegExp): Damage => ({
  what,
  at,
  value,
  message,
});

/** What an image is refused for when it is opened. */
const HEADER: Damage[] = [
  u32('version 0', AT.version, 0, /version/),
  u32('version 1', AT.version, 1, /version|format/),
  u32('version 4', AT.version, 4, /version/),
  u32('cluster bits 8', AT.clusterBits, 8, /cluster size/),
  u32('cluster bits 22', AT.clusterBits, 22, /cluster size/),
  u32('cluster bits all ones', AT.clusterBits, 0xffffffff, /cluster size/),
  u64('a size past 2^53', AT.size, 1n << 60n, /larger than 2\^53|L1 table is too small/),
  u64('a size all ones', AT.size, 0xffffffffffffffffn, /larger than 2\^53|L1 table is too small/),
  u64('a size past its L1 table', AT.size, 1n << 40n, /L1 table is too small/),
  u32('no L1 entries', AT.l1Entries, 0, /L1 table is too small/),
  u32('an L1 table of 32 GiB', AT.l1Entries, 0xffffffff, /L1 table/),
  u64('an L1 table off its cluster', AT.l1Offset, BigInt(L1 + 8), /L1 table is not aligned/),
  u64('an L1 table past the end', AT.l1Offset, 1n << 40n, /L1 table .* outside/),
  u64('an L1 table past all ends', AT.l1Offset, 0xffffffffffff0000n, /L1 table .* outside/),
  u64('no refcount table', AT.refcountTable, 0n, /refcount table/),
  u64('a refcount table off its cluster', AT.refcountTable, 65537n, /refcount table/),
  u64('a refcount table past the end', AT.refcountTable, 1n << 50n, /refcount table/),
  u32('a refcount table without clusters', AT.refcountTableClusters, 0, /refcount table/),
  u32(
    'a refcount table of too many clusters',
    AT.refcountTableClusters,
    0xffffffff,
    /refcount table/,
  ),
  u32('a header of 50 bytes', AT.headerLength, 50, /header length/),
  u32('a header longer than a cluster', AT.headerLength, 0x7fffffff, /header/),
  u32('refcounts of 128 bits', AT.refcountOrder, 7, /refcount width/),
  u32('a backing name of 2000 bytes', AT.backingBytes, 2000, /name of the backing file/),
  u64(
    'a backing name past the header cluster',
    AT.backingOffset,
    BigInt(CLUSTER),
    /name of the backing file/,
  ),
  u64(
    'an unknown incompatible feature',
    AT.incompatible,
    1n << 40n,
    /features that are not supported/,
  ),
  u64('an external data file', AT.incompatible, 4n, /external data file/),
  u32('AES encryption', AT.encryption, 1, /encrypted/),
  u32('LUKS encryption without its header', AT.encryption, 2, /header extension is invalid/),
  u64('a snapshot table past the end', AT.snapshots, 1n << 32n, /snapshot table/),
  u64(
    'a snapshot table off its cluster, though there are no snapshots',
    AT.snapshotsOffset,
    BigInt(2 * CLUSTER + 1),
    /snapshot table/,
  ),
];

/** What is found when a table is followed. The first entry of each table is damaged. */
const TABLES: Damage[] = [
  u64('an L1 entry past the end', L1, COPIED | (1n << 40n), /outside the file/),
  u64('an L1 entry into the L1 table', L1, COPIED | BigInt(L1), /own header or tables/),
  u64('an L1 entry off its cluster', L1, COPIED | BigInt(L2 + 512), /aligned|reserved/),
  u64('an L1 entry with reserved bits', L1, COPIED | BigInt(L2) | (1n << 60n), /reserved/),
  u64('an L2 entry past the end', L2, COPIED | (1n << 45n), /outside the file/),
  u64('an L2 entry into the refcount table', L2, COPIED | BigInt(CLUSTER), /own header or tables/),
  u64('an L2 entry into the L1 table', L2, COPIED | BigInt(L1), /own header or tables/),
  u64('an L2 entry off its cluster', L2, COPIED | BigInt(5 * CLUSTER + 512), /aligned/),
  u64('an L2 entry with reserved bits', L2, COPIED | BigInt(5 * CLUSTER) | (1n << 57n), /reserved/),
  u64(
    'a compressed cluster past the end',
    L2,
    COMPRESSED | (1n << 50n),
    /outside the file|compressed/,
  ),
];

async function poke(path: string, at: number, value: number | bigint): Promise<void> {
  const bytes = Buffer.alloc(typeof value === 'bigint' ? 8 : 4);
  if (typeof value === 'bigint') bytes.writeBigUInt64BE(value);
  else bytes.writeUInt32BE(value);
  const file = await open(path, 'r+');
  await file.write(bytes, 0, bytes.length, at);
  await file.close();
}

/** Runs a command that must fail: on one line, without a stack trace. */
async function fails(cwd: string, args: string[], message: RegExp): Promise<RunResult> {
  const result = await millrace(args, { cwd });
  const { exitCode, stderr } = result;
  expect({ args, exitCode, stderr }).toEqual({
    args,
    exitCode: 1,
    stderr: expect.stringMatching(/^millrace: [^\n]+\n$/),
  });
  expect(stderr).toMatch(message);
  expect(stderr).not.toMatch(/ at .*\.(ts|js):\d|went wrong that should not/);
  return result;
}

describeWithPeer(['qemu-img', 'qemu-io'], 'a damaged image', () => {
  let good: Buffer;
  beforeAll(() =>
    withFolder(async (folder) => {
      const path = join(folder, 'good.qcow2');
      await writeFile(join(folder, 'base.raw'), makeContent('text', 1, SIZE));
      await createImage(path, { base: 'base.raw', baseFormat: 'raw' });
      await qemuIo(path, ['write -P 1 0 64K', 'write -P 2 1M 64K']);
      good = await readFile(path);
    }),
  );

  /** As an overlay it is left as it is; as a base there is no overlay. */
  async function isRefused(
    cwd: string,
    bytes: Buffer,
    message: RegExp,
    commands: { overlay: string[][]; base: string[][] },
  ): Promise<void> {
    await writeFile(join(cwd, 'base.raw'), makeContent('text', 1, SIZE));
    await writeFile(join(cwd, 'bad.qcow2'), bytes);
    for (const command of [...commands.overlay, ...commands.base])
      await fails(cwd, command, message);
    expect(bytes.equals(await readFile(join(cwd, 'bad.qcow2')))).toBe(true);
    expect(existsSync(join(cwd, 'new'))).toBe(false);
  }

  for (const { what, at, value, message } of HEADER) {
    it(
      `is refused at open: ${what}`,
      () =>
        withFolder(async (cwd) => {
          await writeFile(join(cwd, 'damaged'), good);
          await poke(join(cwd, 'damaged'), at, value);
          const overlay = [['stream', 'bad.qcow2']];
          const base = [
            ['create', 'new', '--base', 'bad.qcow2', '--base-format', 'qcow2', '--follow-chain'],
          ];
          await isRefused(cwd, await readFile(join(cwd, 'damaged')), message, { overlay, base });
        }),
      60_000,
    );
  }

  for (const { what, at, value, message } of TABLES) {
    it(
      `is not followed: ${what}`,
      () =>
        withFolder(async (cwd) => {
          await writeFile(join(cwd, 'damaged'), good);
          await poke(join(cwd, 'damaged'), at, value);
          const overlay = [
            ['stream', 'bad.qcow2'],
            ['map', 'bad.qcow2'],
          ];
          const base = [
            ['convert', 'bad.qcow2', 'new', '-O', 'qcow2'],
            ['convert', 'bad.qcow2', 'new', '-O', 'raw'],
          ];
          await isRefused(cwd, await readFile(join(cwd, 'damaged')), message, { overlay, base });

          // Over it as a base, the overlay stays sound, and keeps what was right.
          expect(
            await millrace(['create', 'o.qcow2', '--base', 'bad.qcow2', '--follow-chain'], { cwd }),
          ).toMatchObject({ exitCode: 0 });
          await fails(cwd, ['stream', 'o.qcow2', '--follow-chain'], message);
          expect((await check(join(cwd, 'o.qcow2'))).exitCode).toBe(0);
        }),
      60_000,
    );
  }

  it(
    'is not used where it was cut off',
    () =>
      withFolder(async (cwd) => {
        for (const length of [3, 50, 104, 2000, L1 - 1, L2 + 100, 5 * CLUSTER + 512]) {
          const bytes = good.subarray(0, length);
          await writeFile(join(cwd, 'base.raw'), makeContent('text', 1, SIZE));
          await writeFile(join(cwd, 'bad.qcow2'), bytes);
          await fails(cwd, ['stream', 'bad.qcow2'], /bad\.qcow2/);
          expect(bytes.equals(await readFile(join(cwd, 'bad.qcow2')))).toBe(true);
        }
      }),
    60_000,
  );

  it(
    'is not written where two clusters are on one place: neither as it was found, nor when both are known to be there',
    () =>
      withFolder(async (cwd) => {
        const path = join(cwd, 'bad.qcow2');
        const shared = (cluster: number) =>
          new RegExp(
            `two of its entries share one place .*'millrace convert' \\(at offset ${cluster * CLUSTER}\\)`,
          );
        await writeFile(path, good);
        await poke(path, L2 + 8, COPIED | BigInt(5 * CLUSTER));
        await isRefused(cwd, await readFile(path), shared(5), {
          overlay: [
            ['stream', 'bad.qcow2'],
            ['commit', 'bad.qcow2'],
          ],
          base: [],
        });
        expect((await millrace(['check', 'bad.qcow2'], { cwd })).exitCode).toBe(
          (await check(path)).exitCode,
        );
        expect((await millrace(['check', 'bad.qcow2'], { cwd })).exitCode).toBe(2);
        expect((await millrace(['check', 'bad.qcow2', '--repair', 'all'], { cwd })).exitCode).toBe(
          0,
        );
        expect((await check(path)).exitCode).toBe(0);
        await isRefused(cwd, await readFile(path), shared(5), {
          overlay: [['stream', 'bad.qcow2']],
          base: [],
        });
        // As the message says.
        expect(
          await millrace(['convert', 'bad.qcow2', 'copy.qcow2', '-O', 'qcow2'], { cwd }),
        ).toMatchObject({
          exitCode: 0,
        });
        expect(await compare(path, join(cwd, 'copy.qcow2'))).toMatchObject({ identical: true });
        expect(await millrace(['stream', 'copy.qcow2'], { cwd })).toMatchObject({ exitCode: 0 });
      }),
    60_000,
  );
});

describeWithPeer(['qemu-img', 'qemu-io'], 'compressed data', () => {
  it(
    'that does not inflate ends the job, and the overlay is sound',
    () =>
      withFolder(async (cwd) => {
        await writeFile(join(cwd, 'base.raw'), makeContent('text', 1, SIZE));
        for (const type of ['zlib', 'zstd']) {
          const path = join(cwd, `${type}.qcow2`);
          await convertImage(join(cwd, 'base.raw'), path, {
            from: 'raw',
            compress: true,
            with: { compression_type: type },
          });
          // In the middle of the data.
          const file = await open(path, 'r+');
          const { size } = await file.stat();
          await file.write(Buffer.alloc(4096, 0xa5), 0, 4096, L2 + Math.floor((size - L2) / 2));
          await file.close();
          await millrace(['create', `${type}-o.qcow2`, '--base', `${type}.qcow2`], { cwd });
          await fails(
            cwd,
            ['stream', `${type}-o.qcow2`],
            new RegExp(`${type}\\.qcow2|inflate|decompress`),
          );
          expect((await check(join(cwd, `${type}-o.qcow2`))).exitCode).toBe(0);
          expect(
            JSON.parse((await millrace(['info', `${type}-o.qcow2`, '--json'], { cwd })).stdout),
          ).toMatchObject({ 'backing-filename': `${type}.qcow2` });
          await fails(cwd, ['convert', `${type}.qcow2`, 'new', '-O', 'qcow2'], /./);
          await fails(cwd, ['convert', `${type}.qcow2`, 'new', '-O', 'raw'], /./);
          expect(existsSync(join(cwd, 'new'))).toBe(false);
        }
      }),
    60_000,
  );

  it(
    'of the wrong size ends the job',
    () =>
      withFolder(async (cwd) => {
        await writeFile(join(cwd, 'base.raw'), makeContent('text', 1, SIZE));
        await convertImage(join(cwd, 'base.raw'), join(cwd, 'base.qcow2'), {
          from: 'raw',
          compress: true,
        });
        // A stream of a whole cluster's descriptor, put where one of half a cluster is: the second
        // cluster of the first is smaller.
        const small = join(cwd, 'small.qcow2');
        await convertImage(join(cwd, 'base.raw'), small, {
          from: 'raw',
          compress: true,
          with: { cluster_size: CLUSTER / 2 },
        });
        await poke(small, AT.clusterBits, 16);
        await poke(small, AT.size, BigInt(SIZE));
        await fails(cwd, ['convert', 'small.qcow2', 'new', '-O', 'raw'], /small\.qcow2/);
        expect(existsSync(join(cwd, 'new'))).toBe(false);
      }),
    60_000,
  );
});

describeWithPeer(['qemu-img'], 'an image of another format', () => {
  it(
    'is refused rather than taken for raw data',
    () =>
      withFolder(async (cwd) => {
        await writeFile(join(cwd, 'base.raw'), makeContent('text', 1, SIZE));
        for (const format of ['qcow']) {
          await qemuImg([
            'convert',
            '-f',
            'raw',
            '-O',
            format,
            join(cwd, 'base.raw'),
            join(cwd, format),
          ]);
          await fails(
            cwd,
            ['create', 'new', '--base', format],
            new RegExp(`${format}.*format that is not supported`),
          );
          expect(existsSync(join(cwd, 'new'))).toBe(false);
        }
      }),
    60_000,
  );
});

describe('a base', () => {
  it(
    'that names one of our own files as its backing file is not followed',
    () =>
      withFolder(async (cwd) => {
        await writeFile(join(cwd, 'secret.raw'), makeContent('text', 7, MIB));
        await millrace(['create', 'evil.qcow2', '--base', 'secret.raw'], { cwd });
        await fails(
          cwd,
          ['create', 'o.qcow2', '--base', 'evil.qcow2'],
          /backing file of its own, 'secret\.raw'.*--follow-chain/,
        );
        expect(existsSync(join(cwd, 'o.qcow2'))).toBe(false);
      }),
    60_000,
  );

  it(
    'that is another one by now is called that, whatever is wrong with it besides',
    () =>
      withFolder(async (cwd) => {
        await millrace(['create', 'base.qcow2', '--size', '1M'], { cwd });
        await millrace(['create', 'o.qcow2', '--base', 'base.qcow2'], { cwd });
        const before = await readFile(join(cwd, 'o.qcow2'));
        for (const other of [Buffer.alloc(0), makeContent('text', 7, MIB)]) {
          await writeFile(join(cwd, 'base.qcow2'), other);
          await fails(
            cwd,
            ['stream', 'o.qcow2'],
            /base\.qcow2 is not the base that o\.qcow2 was made on/,
          );
          expect(before.equals(await readFile(join(cwd, 'o.qcow2')))).toBe(true);
        }
      }),
    60_000,
  );

  it(
    'that cannot be one is refused',
    () =>
      withFolder(async (cwd) => {
        await mkdir(join(cwd, 'folder'));
        const bad: [base: string, message: RegExp][] = [
          ['ftp://127.0.0.1/base.raw', /scheme 'ftp:' is not supported/],
          ['sftp://127.0.0.1/base', /scheme 'sftp:' is not supported/],
          ['json:{"driver":"raw"}', /json|not supported/],
          ['missing.raw', /no such file/],
          ['folder', /it is a folder/],
          ['/dev/null', /character device/],
          ['http://', /not a URL/],
        ];
        for (const [base, message] of bad) {
          await fails(cwd, ['create', 'o.qcow2', '--base', base], message);
          expect(existsSync(join(cwd, 'o.qcow2'))).toBe(false);
        }
      }),
    60_000,
  );
});

describe('an overlay', () => {
  it(
    'that cannot be one is refused',
    () =>
      withFolder(async (cwd) => {
        await mkdir(join(cwd, 'folder'));
        await writeFile(join(cwd, 'raw.img'), makeContent('text', 7, MIB));
        for (const command of ['stream', 'info', 'map', 'check']) {
          await fails(cwd, [command, 'missing.qcow2'], /missing\.qcow2.*no such file/);
          await fails(cwd, [command, 'folder'], /it is a folder/);
        }
        for (const command of [['create', '--size', '1M'], ['stream'], ['check']])
          await fails(
            cwd,
            [...command, 'https://127.0.0.1:1/o.qcow2'],
            /an overlay is a local file/,
          );
        await fails(
          cwd,
          ['convert', 'raw.img', 'https://127.0.0.1:1/copy', '-O', 'raw'],
          /is a local file/,
        );
        await fails(cwd, ['stream', 'raw.img'], /an overlay is a qcow2 image/);
        await fails(cwd, ['create', 'nowhere/o.qcow2', '--size', '1M'], /no such file/);
        await fails(cwd, ['create', 'folder', '--size', '1M'], /folder/);
      }),
    60_000,
  );

  it(
    'is streamed only within its range',
    () =>
      withFolder(async (cwd) => {
        await writeFile(join(cwd, 'base.raw'), makeContent('text', 7, MIB));
        await millrace(['create', 'o.qcow2', '--base', 'base.raw'], { cwd });
        const before = await readFile(join(cwd, 'o.qcow2'));
        for (const range of [
          ['--offset', '1M', '--length', '1'],
          ['--offset', '2M'],
          ['--length', '1T'],
          ['--offset', '8191T', '--length', '8191T'],
        ]) {
          await fails(
            cwd,
            ['stream', 'o.qcow2', ...range],
            /range does not lie inside the disk|is invalid/,
          );
        }
        expect(before.equals(await readFile(join(cwd, 'o.qcow2')))).toBe(true);
      }),
    60_000,
  );
});

describe.skipIf(!existsSync('/dev/full'))('an output that cannot be written', () => {
  it(
    'is told on one line',
    () =>
      withFolder(async (cwd) => {
        await millrace(['create', 'o.qcow2', '--size', '1M'], { cwd });
        const full = await open('/dev/full', 'w');
        for (const args of [['info', 'o.qcow2'], ['map', 'o.qcow2'], ['--help']]) {
          const { exitCode, stderr } = await startMillrace(args, { cwd, stdout: full.fd }).ended;
          expect({ args, exitCode, stderr }).toEqual({
            args,
            exitCode: 1,
            stderr: expect.stringMatching(
              /^millrace: cannot write to [^\n]*no space left on device[^\n]*\n$/,
            ),
          });
        }
        await full.close();
      }),
    60_000,
  );
});

/**
 * Small file systems can be mounted only by root. In CI these tests run, and fail, where they
 * cannot be.
 */
const asRoot = process.getuid?.() === 0 || process.env.CI ? describe : describe.skip;
if (asRoot !== describe)
  console.warn('skipped: a full disk, a read-only file system (they need root, for mount)');

asRoot('a file system', () => {
  let folder: string | undefined;
  async function mounted(use: (path: string) => Promise<void>): Promise<void> {
    await withFolder(async (parent) => {
      const path = join(parent, 'small');
      await mkdir(path);
      await run('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', path]);
      folder = path;
      try {
        await use(path);
      } finally {
        await run('umount', [path]);
        folder = undefined;
      }
    });
  }
  afterAll(async () => {
    if (folder !== undefined) await run('umount', ['-l', folder]);
  });

  it(
    'that is full ends the job; what was copied stays, and the overlay is sound',
    () =>
      mounted(async (path) => {
        await withFolder(async (outside) => {
          const base = join(outside, 'base.raw');
          await writeFile(base, makeContent('random', 7, SIZE));
          await millrace(['create', 'o.qcow2', '--base', base], { cwd: path });
          const told = await fails(
            path,
            ['stream', 'o.qcow2'],
            /no space left on device.*left, run it again/,
          );
          await fails(path, ['convert', base, 'copy.raw', '-O', 'raw'], /no space left on device/);
          expect(existsSync(join(path, 'copy.raw'))).toBe(false);
          const { stdout } = await millrace(['info', 'o.qcow2', '--json'], { cwd: path });
          const { remaining } = JSON.parse(stdout) as { remaining: number };
          expect(told.stderr).toContain(`(${remaining} bytes) of 4 MiB left`);
          expect((await check(join(path, 'o.qcow2'))).report?.corruptions).toBeUndefined();
          expect(await compare(join(path, 'o.qcow2'), base, { formatB: 'raw' })).toMatchObject({
            identical: true,
          });
        });
      }),
    60_000,
  );

  it(
    'that is full pauses the job with --on-error enospc, which goes on when there is room',
    () =>
      mounted(async (path) => {
        await withFolder(async (outside) => {
          const base = join(outside, 'base.raw');
          await writeFile(base, makeContent('random', 7, SIZE));
          await millrace(['create', 'o.qcow2', '--base', base], { cwd: path });
          const job = startMillrace(['stream', 'o.qcow2', '--on-error', 'enospc', '--json'], {
            cwd: path,
          });
          await job.until('stderr', /paused: .*no space left on device.*trying again in 5 s/);
          await run('mount', ['-o', 'remount,size=16m', path]);
          const { exitCode, stdout } = await job.ended;
          expect(exitCode).toBe(0);
          const lines = stdout
            .trim()
            .split('\n')
            .map(
              (line) =>
                JSON.parse(line) as { paused: boolean; status: number; error?: { code: string } },
            );
          expect(lines.some(({ paused, error }) => paused && error?.code === 'ENOSPC')).toBe(true);
          expect(lines.at(-1)).toMatchObject({ status: 0, remaining: 0, paused: false });
          expect((await check(join(path, 'o.qcow2'))).exitCode).toBe(0);
          expect(await compare(join(path, 'o.qcow2'), base, { formatB: 'raw' })).toMatchObject({
            identical: true,
          });
        });
      }),
    60_000,
  );

  it(
    'that is read-only refuses to stream, and lets look',
    () =>
      mounted(async (path) => {
        await withFolder(async (outside) => {
          const base = join(outside, 'base.raw');
          await writeFile(base, makeContent('text', 7, SIZE));
          await millrace(['create', 'o.qcow2', '--base', base], { cwd: path });
          await run('mount', ['-o', 'remount,ro', path]);
          await fails(path, ['stream', 'o.qcow2'], /read-only file system/i);
          await fails(path, ['create', 'new.qcow2', '--size', '1M'], /read-only file system/i);
          expect(await millrace(['info', 'o.qcow2'], { cwd: path })).toMatchObject({ exitCode: 0 });
          expect(await millrace(['check', 'o.qcow2'], { cwd: path })).toMatchObject({
            exitCode: 0,
          });
        });
      }),
    60_000,
  );
});
