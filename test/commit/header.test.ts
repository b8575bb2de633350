/**
 * What an overlay's header says of its base, whoever made the header: each change of the base is
 * told whole, with what lets another base be noticed, and QEMU reads it. Where it is cut short, the
 * header tells of the old base or of the new one.
 */
import { mkdtemp, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../hosts/api/clock.ts';
import type { ImageFormat } from '../../hosts/api/image.ts';
import { rebaseWith } from '../../hosts/disk/rebase.ts';
import { commitDisk, createDisk, openDisk, rebaseDisk } from '../../hosts/node/index.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { check, createImage, info, qemuImg, recordBase } from '../support/qemu.ts';

const MIB = 1 << 20;
const SECTOR = 512;
/** Most that a header takes. */
const HEADER_BYTES = 65536;
/** Ways to lose a part of what was not flushed that are tried at each write. */
const CUTS_MAX = 256;

let dir: string;
const at = (name: string): string => join(dir, name);
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'millrace-header-'));
});
afterEach(async () => {
  await rm(dir, { recursive: true });
});

/**
 * What qemu-img puts before the base's name differs with version and cluster size: the names of
 * features reach over the first sector.
 */
const SHAPES: { name: string; with: Record<string, string | number> }[] = [
  { name: 'version 3', with: {} },
  { name: 'version 2', with: { compat: '0.10' } },
  { name: 'clusters of 512 B', with: { cluster_size: 512 } },
  { name: 'clusters of 1 KiB', with: { cluster_size: 1024 } },
  { name: 'clusters of 2 MiB', with: { cluster_size: 2 * MIB } },
];
const MAKERS: { name: string; make: (path: string) => Promise<void> }[] = [
  ...SHAPES.flatMap(({ name, with: options }) => [
    {
      name: `qemu-img, ${name}`,
      make: (path: string) =>
        createImage(path, { base: at('first'), baseFormat: 'qcow2', with: options }),
    },
    {
      name: `qemu-img, ${name}, without a base`,
      make: (path: string) => createImage(path, { size: MIB, with: options }),
    },
  ]),
  {
    name: 'us',
    make: async (overlay) => (await createDisk({ overlay, base: at('first') })).close(),
  },
  {
    name: 'us, clusters of 512 B',
    make: async (overlay) =>
      (await createDisk({ overlay, base: at('first'), clusterSize: 512 })).close(),
  },
  {
    name: 'us, without a base',
    make: async (overlay) => (await createDisk({ overlay, size: MIB })).close(),
  },
  {
    name: 'us, without a base, clusters of 512 B',
    make: async (overlay) => (await createDisk({ overlay, size: MIB, clusterSize: 512 })).close(),
  },
];

async function openAndClose(): Promise<void> {
  await (await openDisk({ overlay: at('overlay') })).close();
}

/**
 * The overlay stands on this base, for QEMU and for us, and on no other that is called the same.
 */
async function standsOn(base: string, format: ImageFormat): Promise<void> {
  expect(await info(at('overlay'))).toMatchObject({
    'backing-filename': at(base),
    'backing-filename-format': format,
  });
  expect((await check(at('overlay'))).exitCode).toBe(0);
  const disk = await openDisk({ overlay: at('overlay') });
  expect((await disk.images())[0]).toMatchObject({ backingFile: at(base), backingFormat: format });
  await disk.close();
  const { atime, mtimeMs } = await stat(at(base));
  await utimes(at(base), atime, mtimeMs / 1000 - 60);
  await expect(openAndClose()).rejects.toMatchObject({ code: 'ECHANGED' });
  // In the middle of the millisecond: what is set is rounded to one side or the other.
  await utimes(at(base), atime, (Math.floor(mtimeMs) + 0.5) / 1000);
}

describeWithPeer(['qemu-img'], 'the header', () => {
  it.each(MAKERS)('made by $name takes every other base', async ({ make }) => {
    for (const name of ['first', 'second']) {
      await createImage(at(name), { size: MIB });
      // A whole second, which can be given back as it was.
      await utimes(at(name), 1_000_000_000, 1_000_000_000);
    }
    await writeFile(at('raw'), new Uint8Array(MIB));
    await utimes(at('raw'), 1_100_000_000, 1_100_000_000);
    await make(at('overlay'));
    await rebaseDisk({ overlay: at('overlay'), base: at('second') });
    await standsOn('second', 'qcow2');
    await rebaseDisk({ overlay: at('overlay'), base: at('raw') });
    await standsOn('raw', 'raw');
    await commitDisk({ overlay: at('overlay') });
    await standsOn('raw', 'raw');
    // QEMU writes all of the header anew, and puts what it does not know behind what it does.
    await recordBase(at('overlay'), at('first'));
    await rebaseDisk({ overlay: at('overlay'), base: at('second'), unsafe: true });
    await standsOn('second', 'qcow2');
    const disk = await openDisk({ overlay: at('overlay') });
    await disk.stream();
    expect((await disk.images())[0]).toMatchObject({
      backingFile: undefined,
      backingFormat: undefined,
    });
    await disk.close();
    expect((await check(at('overlay'))).exitCode).toBe(0);
    await rebaseDisk({ overlay: at('overlay'), base: at('raw') });
    await standsOn('raw', 'raw');
  });

  it('lets QEMU give an overlay of ours another base, which is then as good as recorded by it', async () => {
    for (const name of ['first', 'second']) {
      await createImage(at(name), { size: name === 'first' ? MIB : 9 * MIB });
      await utimes(at(name), 1_000_000_000, 1_000_000_000);
    }
    await (await createDisk({ overlay: at('overlay'), base: at('first') })).close();
    await standsOn('first', 'qcow2');
    await qemuImg(['rebase', '-f', 'qcow2', '-b', at('second'), '-F', 'qcow2', at('overlay')]);
    await openAndClose();
    await recordBase(at('overlay'), at('first'));
    await standsOn('first', 'qcow2');
  });

  it('tells at once of the base that a job has gone down to', async () => {
    await writeFile(at('lowest'), new Uint8Array(MIB));
    await createImage(at('middle'), { base: at('lowest'), baseFormat: 'raw' });
    await createImage(at('overlay'), { base: at('middle'), baseFormat: 'qcow2' });
    const disk = await openDisk({ overlay: at('overlay'), followChain: true });
    await disk.stream({ base: 2 });
    expect(
      (await disk.images()).map(({ backingFile, backingFormat }) => [backingFile, backingFormat]),
    ).toEqual([
      [at('lowest'), 'raw'],
      [undefined, undefined],
    ]);
    await disk.close();
    await standsOn('lowest', 'raw');
  });

  it.each(MAKERS)(
    'made by $name tells of the old base or the new one wherever its change is cut short',
    async ({ make }) => {
      await createImage(at('first'), { size: MIB });
      await make(at('overlay'));
      // Once as it was made, and once with an identity that QEMU has moved.
      for (const round of ['raw', 'moved', 'raw']) {
        if (round === 'moved') {
          await recordBase(at('overlay'), at('first'));
          continue;
        }
        await everyCut();
      }
    },
  );

  /**
   * Rebases the overlay onto raw data in memory, and looks at the header after every part of what
   * was written and not flushed.
   */
  async function everyCut(): Promise<void> {
    const runtime = Object.assign(new MemoryRuntime(), { clock: systemClock });
    const before = await readFile(at('overlay'));
    runtime.add(at('first'), await readFile(at('first')));
    Object.assign(runtime.add(at('raw'), new Uint8Array(MIB)), { identity: 'etag "raw"' });
    const file = runtime.add(at('overlay'), before);
    const header = file.bytes.slice(0, HEADER_BYTES);
    const old = toldBy(header);
    const told = new Set<string>();
    const random = seeded(7);
    const waiting: { offset: number; bytes: Uint8Array }[] = [];
    runtime.plan = ({ kind, file: name, offset, length }, perform) => {
      perform();
      if (name !== at('overlay') || kind === 'read' || offset >= HEADER_BYTES) return;
      for (let from = offset; kind === 'write' && from < offset + length; from += SECTOR)
        waiting.push({ offset: from, bytes: file.bytes.slice(from, from + SECTOR) });
      for (let cut = 0; cut < Math.min(CUTS_MAX, 2 ** waiting.length); cut++) {
        const torn = header.slice();
        for (const { offset: from, bytes } of waiting) if (random() < 0.5) torn.set(bytes, from);
        told.add(toldBy(torn));
      }
      if (kind !== 'flush') return;
      for (const { offset: from, bytes } of waiting.splice(0)) header.set(bytes, from);
    };
    await rebaseWith(runtime, {
      overlay: at('overlay'),
      base: at('raw'),
      baseFormat: 'raw',
      unsafe: true,
    });
    const end = toldBy(file.bytes);
    expect(JSON.parse(end)).toEqual({
      name: at('raw'),
      format: 'raw',
      identity: expect.stringContaining('etag \\"raw\\"'),
    });
    // What told of the old base may be gone a moment before the old base is.
    const { identity, ...rest } = JSON.parse(old) as Told;
    for (const text of told)
      expect([old, JSON.stringify({ ...rest, identity: '' }), end]).toContain(text);
    expect(identity === '' || told.size > 1).toBe(true);
    await writeFile(at('overlay'), file.bytes);
  }
});

interface Told {
  name: string;
  format: string;
  identity: string;
}

/** What a header says of its base, read as the specification has it. */
function toldBy(image: Uint8Array): string {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  const text = (from: number, bytes: number): string =>
    new TextDecoder().decode(image.subarray(from, from + bytes)).replace(/\0+$/, '');
  const nameAt = Number(view.getBigUint64(8));
  const told: Told = {
    name: nameAt ? text(nameAt, view.getUint32(16)) : '',
    format: '',
    identity: '',
  };
  const end = Math.min(nameAt || Infinity, 2 ** view.getUint32(20), image.length);
  for (let from = view.getUint32(4) === 2 ? 72 : view.getUint32(100); from + 8 <= end; ) {
    const type = view.getUint32(from);
    const bytes = view.getUint32(from + 4);
    if (type === 0) break;
    if (from + 8 + bytes > end)
      throw new Error(
        `the extension at ${from} goes on behind the end of the extensions at ${end}`,
      );
    if (type === 0xe2792aca) told.format = text(from + 8, bytes);
    if (type === 0x4d494c52) told.identity = text(from + 8, bytes);
    from += 8 + Math.ceil(bytes / 8) * 8;
  }
  return JSON.stringify(told);
}

function seeded(state: number): () => number {
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
