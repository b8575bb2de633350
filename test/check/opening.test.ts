/**
 * What QEMU does not open is not called sound: one field of a header, a header extension, a
 * snapshot or a bitmap is changed, and both programs are asked.
 */
import { copyFile, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { checkDisk, MillraceError, openDisk } from '../../hosts/node/index.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, createImage, qemuImg, qemuIo } from '../support/qemu.ts';
import { run } from '../support/run.ts';

const MIB = 1024 * 1024;
const CLUSTER = 4096;

/** A number of the file: where it stands, its bytes, its value. */
type Field = readonly [at: number, bytes: number, value: bigint];
/** Fields of an image whose header extensions, bitmap directory and snapshot table begin there. */
type Change = (at: {
  end: number;
  bitmaps: number;
  directory: number;
  snapshots: number;
}) => Field[];

const FORMAT = 0xe2792acan;
const CRYPTO = 0x0537be77n;
const DATA_FILE = 0x44415441n;

/**
 * An extension in the place of the list's end; behind it there are zeros, which end the list anew.
 */
function extension(type: bigint, bytes: number): Change {
  return ({ end }) => [
    [end, 4, type],
    [end + 4, 4, BigInt(bytes)],
  ];
}

const HEADERS: Record<string, Change> = {
  'a backing file behind the first cluster, without a name': () => [[8, 8, 4097n]],
  'a backing file far away, without a name': () => [[8, 8, 1n << 62n]],
  'a backing file in the middle of the extensions': () => [[8, 8, 120n]],
  'a backing file just behind the extensions, without a name': ({ end }) => [
    [8, 8, BigInt(end + 8)],
  ],
  'a backing file without room for the end of the extensions': ({ end }) => [
    [8, 8, BigInt(end + 4)],
  ],
  'a backing format of 15 bytes': extension(FORMAT, 15),
  'a backing format of 16 bytes': extension(FORMAT, 16),
  'an encryption header without encryption': extension(CRYPTO, 16),
  'an end of the extensions that has a length': ({ end }) => [[end + 4, 4, 5000n]],
  'an extension across the end of the cluster': extension(0x12345678n, 4000),
  'an unknown extension': extension(0x12345678n, 8),
  'a name of a data file without a data file': extension(DATA_FILE, 8),
  'a data file that is raw without a data file': () => [[88, 8, 2n]],
  'an unknown autoclear bit': () => [[88, 8, 1n << 40n]],
  'an unknown compatible bit': () => [[80, 8, 1n << 40n]],
  'an unknown incompatible bit': () => [[72, 8, 1n << 40n]],
  'a bit for a compression that is zlib': () => [[72, 8, 8n]],
  'a compression without its bit': () => [[104, 1, 1n]],
  'an unknown compression': () => [
    [72, 8, 8n],
    [104, 1, 2n],
  ],
  'subclusters in small clusters': () => [[72, 8, 16n]],
  'an unknown encryption': () => [[32, 4, 3n]],
  'encryption without its header': () => [[32, 4, 2n]],
  'refcounts of 128 bits': () => [[96, 4, 7n]],
  'a short header': () => [[100, 4, 96n]],
  'a header longer than a cluster': () => [[100, 4, 4104n]],
  'a version of 4': () => [[4, 4, 4n]],
  'clusters of 256 bytes': () => [[20, 4, 8n]],
  'clusters of 4 MiB': () => [[20, 4, 22n]],
  'an L1 table that is too small': () => [[36, 4, 0n]],
  'an L1 table that is too large': () => [[36, 4, 1n << 23n]],
  'an L1 table between two clusters': () => [[40, 8, 12800n]],
  'a refcount table that is too large': () => [[56, 4, 4096n]],
  'a refcount table between two clusters': () => [[48, 8, 4608n]],
  'no refcount table': () => [[56, 4, 0n]],
  'a snapshot table far away, without snapshots': () => [[64, 8, 1n << 63n]],
  'too many snapshots': () => [[60, 4, 65537n]],
};

const BITMAPS: Record<string, Change> = {
  'a reserved field of the extension': ({ bitmaps }) => [[bitmaps + 4, 4, 1n]],
  'one bitmap fewer': ({ bitmaps }) => [[bitmaps, 4, 1n]],
  'one bitmap more': ({ bitmaps }) => [[bitmaps, 4, 3n]],
  'too many bitmaps': ({ bitmaps }) => [[bitmaps, 4, 65536n]],
  'a directory of no bytes': ({ bitmaps }) => [[bitmaps + 8, 8, 0n]],
  'a directory that is longer than its entries': ({ bitmaps }) => [[bitmaps + 8, 8, 72n]],
  'a directory that is too large': ({ bitmaps }) => [[bitmaps + 8, 8, 1n << 30n]],
  'a directory between two clusters': ({ bitmaps }) => [[bitmaps + 16, 8, 512n]],
  'a table of no entries': ({ directory }) => [[directory + 8, 4, 0n]],
  'a table of too many entries': ({ directory }) => [[directory + 8, 4, 2n]],
  'a table between two clusters': ({ directory }) => [[directory, 8, 512n]],
  'an unknown flag': ({ directory }) => [[directory + 12, 4, 6n]],
  'an unknown type': ({ directory }) => [[directory + 16, 1, 2n]],
  'a granularity of 256 bytes': ({ directory }) => [[directory + 17, 1, 8n]],
  'a granularity of 4 GiB': ({ directory }) => [[directory + 17, 1, 32n]],
  'a granularity that is another one': ({ directory }) => [[directory + 17, 1, 17n]],
  'no name': ({ directory }) => [[directory + 18, 2, 0n]],
  'a name that is too long': ({ directory }) => [[directory + 18, 2, 1024n]],
  'extra data': ({ directory }) => [[directory + 20, 4, 1n]],
  'a bitmap that was not stored to its end': ({ directory }) => [[directory + 12, 4, 1n]],
  'another size of the disk': () => [[24, 8, 1000n]],
};

const SNAPSHOTS: Record<string, Change> = {
  'no extra data': ({ snapshots }) => [[snapshots + 36, 4, 0n]],
  'extra data that is too long': ({ snapshots }) => [[snapshots + 36, 4, 1025n]],
  'an L1 table between two clusters': ({ snapshots }) => [[snapshots, 8, 512n]],
  'an L1 table that is too large': ({ snapshots }) => [[snapshots + 8, 4, 1n << 28n]],
  'one snapshot more': () => [[60, 4, 3n]],
};

describeWithPeer(['qemu-img', 'qemu-io'], 'what QEMU does not open', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-opening-'));
    for (const name of ['plain', 'bitmaps', 'snapshots']) {
      const path = join(folder, name);
      await createImage(path, { size: MIB, with: { cluster_size: CLUSTER } });
      await qemuIo(path, ['write -q -P 1 0 64k']);
    }
    for (const args of [['one'], ['-g', '512', 'two']])
      await qemuImg(['bitmap', '--add', join(folder, 'bitmaps'), ...args]);
    for (const name of ['one', 'two'])
      await qemuImg(['snapshot', '-c', name, join(folder, 'snapshots')]);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const tables = { plain: HEADERS, bitmaps: BITMAPS, snapshots: SNAPSHOTS };
  for (const [name, changes] of Object.entries(tables))
    for (const [what, change] of Object.entries(changes))
      it(`is not called sound: ${what} (${name})`, async () => {
        const path = join(folder, 'changed');
        await copyFile(join(folder, name), path);
        await put(path, change(await placesOf(path)));
        const opens =
          (await run('qemu-io', ['-r', '-f', 'qcow2', '-c', 'quit', path], { exitCodes: [0, 1] }))
            .exitCode === 0;
        const theirs = (await check(path)).exitCode;
        const ours = await verdict(path);
        if (!opens || (theirs !== 0 && theirs !== 3))
          expect(['refused', 'corrupt']).toContain(ours);
        else if (theirs === 0) expect(ours).toBe('sound');
        else expect(ours).toBe('leaks');
        if (!opens && name === 'plain')
          await expect(openDisk({ overlay: path, readOnly: true })).rejects.toThrow(MillraceError);
      });
});

async function verdict(path: string): Promise<string> {
  try {
    const report = await checkDisk({ overlay: path });
    if (report?.corruptions) return 'corrupt';
    return report?.leaks ? 'leaks' : 'sound';
  } catch (error) {
    if (error instanceof MillraceError) return 'refused';
    throw error;
  }
}

async function placesOf(path: string): Promise<Parameters<Change>[0]> {
  const file = await readFile(path);
  let at = file.readUInt32BE(100);
  let bitmaps = 0;
  while (file.readUInt32BE(at)) {
    if (file.readUInt32BE(at) === 0x23852875) bitmaps = at + 8;
    at += 8 + ((file.readUInt32BE(at + 4) + 7) & ~7);
  }
  return {
    end: at,
    bitmaps,
    directory: bitmaps && Number(file.readBigUInt64BE(bitmaps + 16)),
    snapshots: Number(file.readBigUInt64BE(64)),
  };
}

async function put(path: string, fields: Field[]): Promise<void> {
  const file = await open(path, 'r+');
  for (const [at, bytes, value] of fields) {
    const whole = Buffer.alloc(8);
    whole.writeBigUInt64BE(value);
    await file.write(whole, 8 - bytes, bytes, at);
  }
  await file.close();
}
