import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { copyFile, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { checkDisk, createDisk, openDisk } from '../../hosts/node/index.ts';
import { Random } from '../fixtures/content.ts';
import { baseKind } from '../fixtures/images.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, createImage, info, qemuIo } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import type { Patient } from './damage.ts';
import { damages, spoil } from './damage.ts';

const MIB = 1024 * 1024;
const DIRTY = 1n;
const AT_INCOMPATIBLE = 72;
const AT_REFCOUNT_TABLE = 48;
const AT_AUTOCLEAR = 88;
/** A feature that nobody knows, which may use clusters. */
const UNKNOWN = 1n << 17n;
const OFFSET_MASK = 0x00fffffffffffe00n;

/** Sets the mark of an image that was not closed. */
async function markDirty(patient: Patient): Promise<void> {
  await patient.put64(AT_INCOMPATIBLE, DIRTY);
}

/**
 * Streams `base` into `overlay` in a process of its own, which is killed at the job's n-th event of
 * progress.
 */
async function streamAndKill(overlay: string, base: string, n: number): Promise<void> {
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', fileURLToPath(new URL('./streamer.ts', import.meta.url)), overlay, base],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const ended = once(child, 'close');
  let events = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    if (line === 'progress' && ++events === n) child.kill('SIGKILL');
  }
  await ended;
  expect(child.signalCode).toBe('SIGKILL');
}

describeWithPeer(['qemu-img', 'qemu-io'], 'an overlay that was not closed', () => {
  let dir: string;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'millrace-crash-'));
  });
  afterAll(() => rm(dir, { recursive: true }));

  for (const n of [1, 2, 4]) {
    it(`is sound again when it is opened, killed at event ${n} of a stream`, async () => {
      const base = (await baseKind('qcow2-v3-2m').make(dir)).path;
      const overlay = join(dir, `killed-${n}.qcow2`);
      await streamAndKill(overlay, base, n);
      const dirty = (await info(overlay, { format: 'qcow2' }))['dirty-flag'];
      await (await openDisk({ overlay, base })).close();
      const opened = await check(overlay);
      expect(opened.exitCode, `${dirty ? 'dirty' : 'clean'}\n${opened.messages}`).toBe(0);
      const disk = await openDisk({ overlay, base });
      await disk.stream();
      await disk.close();
      expect((await check(overlay)).exitCode).toBe(0);
      expect(await compare(base, overlay, { formatA: 'qcow2', formatB: 'qcow2' })).toMatchObject({
        identical: true,
      });
    });
  }

  it('has its refcounts again that QEMU had put off', async () => {
    const overlay = join(dir, 'lazy.qcow2');
    await createImage(overlay, {
      size: 64 * MIB,
      with: { lazy_refcounts: 'on', cluster_size: 4096 },
    });
    await run(
      'qemu-io',
      [
        '-f',
        'qcow2',
        '-c',
        'write -P 0x41 0 3M',
        '-c',
        'write -P 0x42 40M 1M',
        '-c',
        'flush',
        '-c',
        'sigraise 9',
        overlay,
      ],
      {
        exitCodes: [137],
      },
    ).catch((error: Error) => expect(error.message).toMatch(/SIGKILL/));
    expect(await checkDisk({ overlay })).toMatchObject({
      leaks: 0,
      corruptions: expect.toSatisfy((found: number) => found > 500),
    });
    await (await openDisk({ overlay })).close();
    expect((await check(overlay)).exitCode).toBe(0);
    await qemuIo(overlay, ['read -P 0x41 0 3M', 'read -P 0x42 40M 1M', 'read -P 0 3M 37M'], {
      readOnly: true,
    });
  });

  for (const [name, message] of [
    ['a data entry of another', /share one place/],
    ['a data entry in an L2 table', /share one place/],
    ['a data entry in the L1 table', /own header or tables/],
    ['a data entry behind the end', /outside the file/],
    ['a data entry between two clusters', /not aligned/],
    ['a refcount table entry in a data cluster', /millrace check --repair all/],
  ] as const) {
    it.each(['not closed', 'closed'])(
      `is refused, and left as it is, with ${name} (%s)`,
      async (state) => {
        const { path } = await baseKind('qcow2-v3-4k').make(dir);
        await spoil(path, damages[name], new Random(5));
        if (state === 'not closed') await spoil(path, markDirty, new Random(1));
        const before = createHash('sha256')
          .update(await readFile(path))
          .digest('hex');
        const refused = openDisk({ overlay: path });
        await expect(refused).rejects.toMatchObject({
          code: 'ECORRUPT',
          message: expect.stringMatching(message),
        });
        await expect(refused).rejects.toThrow(
          /^cannot open the image: [^\n]*; nothing was written, look at it with 'millrace check'$/,
        );
        expect(
          createHash('sha256')
            .update(await readFile(path))
            .digest('hex'),
        ).toBe(before);
      },
    );
  }

  it('has its leaks given back though it was closed: QEMU does not tell that it was not', async () => {
    const { path } = await baseKind('qcow2-v3-64k').make(dir);
    await spoil(path, damages['a leaked cluster'], new Random(1));
    expect((await check(path)).exitCode).toBe(3);
    await (await openDisk({ overlay: path })).close();
    expect((await check(path)).exitCode).toBe(0);
  });

  it('is opened with leaks, and has none afterwards', async () => {
    const { path } = await baseKind('qcow2-v3-64k').make(dir);
    const sound = join(dir, 'sound.qcow2');
    await copyFile(path, sound);
    await spoil(path, damages['a leaked cluster'], new Random(1));
    await spoil(path, markDirty, new Random(1));
    await (await openDisk({ overlay: path })).close();
    expect((await check(path)).exitCode).toBe(0);
    expect(await compare(path, sound, { formatA: 'qcow2', formatB: 'qcow2' })).toMatchObject({
      identical: true,
    });
  });

  it('has no wrong flags where leaks must stay, as what is not known may use them', async () => {
    const { path } = await baseKind('qcow2-v3-64k').make(dir);
    await spoil(
      path,
      async (patient) => {
        for (const { value } of [patient.usedL1[0], patient.dataEntries[0]])
          await patient.putRefcount(Number(value & OFFSET_MASK) / patient.cluster, 2n);
        await patient.put64(AT_AUTOCLEAR, UNKNOWN);
        await markDirty(patient);
      },
      new Random(1),
    );
    expect((await check(path)).exitCode).toBe(2);
    await (await openDisk({ overlay: path })).close();
    // Leaks, and nothing else.
    expect((await check(path)).exitCode).toBe(3);
  });

  const NO_TABLES = { 'has none': 0n, 'has one behind the end of the file': 1n << 40n };
  it.each(Object.entries(NO_TABLES))(
    'is given a refcount table where its header %s',
    async (_, offset) => {
      const { path } = await baseKind('qcow2-v3-64k').make(dir);
      const sound = join(dir, 'sound.qcow2');
      await copyFile(path, sound);
      await spoil(path, (patient) => patient.put64(AT_REFCOUNT_TABLE, offset), new Random(1));
      expect((await check(path)).exitCode).toBe(2);
      const report = await checkDisk({ overlay: path, repair: 'all' });
      expect(report).toMatchObject({ corruptions: 0, leaks: 0 });
      expect((await check(path)).exitCode).toBe(0);
      expect(await compare(path, sound, { formatA: 'qcow2', formatB: 'qcow2' })).toMatchObject({
        identical: true,
      });
    },
  );

  it('gives back what was taken behind the end of its file', async () => {
    const overlay = join(dir, 'behind.qcow2');
    await (await createDisk({ overlay, size: 16 * MIB, clusterSize: 4096 })).close();
    await spoil(
      overlay,
      async (patient) => {
        for (let behind = 3; behind < 200; behind++)
          await patient.putRefcount(patient.clusters + behind, 1n);
        await markDirty(patient);
      },
      new Random(1),
    );
    const disk = await openDisk({ overlay });
    await disk.write(0, new Uint8Array(4 * MIB).fill(7));
    await disk.close();
    expect(await checkDisk({ overlay })).toMatchObject({ corruptions: 0, leaks: 0 });
    expect((await check(overlay)).exitCode).toBe(0);
  });

  it('can be checked while it is open and in use', async () => {
    const base = (await baseKind('qcow2-v3-4k').make(dir)).path;
    const overlay = join(dir, 'used.qcow2');
    const disk = await createDisk({ overlay, base, clusterSize: 4096 });
    const streamed = disk.stream();
    for (let i = 0; i < 20; i++) {
      const written = disk.write(i * 100_000, new Uint8Array(50_000).fill(i));
      const discarded = disk.discard(i * 90_000, 70_000);
      expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
      await Promise.all([written, discarded]);
    }
    await streamed;
    expect(await disk.check({ repair: 'all' })).toMatchObject({
      corruptions: 0,
      leaks: 0,
      corruptionsFixed: 0,
      leaksFixed: 0,
    });
    await disk.close();
    expect((await check(overlay)).exitCode).toBe(0);
  });
});
