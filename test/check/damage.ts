/**
 * A qcow2 file's metadata under the knife: finds the tables of an image as QEMU's
 * docs/interop/qcow2.txt lays them out, and spoils them in every way that a check has to notice. It
 * trusts the image, so it is run on sound ones.
 */

import type { FileHandle } from 'node:fs/promises';
import { open, truncate } from 'node:fs/promises';
import type { Random } from '../fixtures/content.ts';

const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;
const ZERO = 1n;
const OFFSET_MASK = 0x00fffffffffffe00n;
const EXTENDED_L2 = 16n;
/** Far behind the end of every image under test, and aligned to clusters of any size. */
const FAR_AWAY = 1n << 40n;

const AT_CLUSTER_BITS = 20;
const AT_L1_SIZE = 36;
const AT_L1_OFFSET = 40;
const AT_REFCOUNT_TABLE = 48;
const AT_REFCOUNT_CLUSTERS = 56;
const AT_SNAPSHOTS = 60;
const AT_SNAPSHOTS_OFFSET = 64;
const AT_INCOMPATIBLE = 72;
const AT_REFCOUNT_ORDER = 96;
const HEADER_BYTES = 112;
const OUTER_TABLES = 128;

/** An entry of a table: where it stands in the file, and its value. */
export interface Entry {
  at: number;
  value: bigint;
}

/** An image's file, open for surgery. */
export class Patient {
  readonly path: string;
  readonly file: FileHandle;
  readonly bytes: number;
  readonly version: number;
  readonly cluster: number;
  readonly l1: Entry[] = [];
  /** With subclusters, the first words of the entries. */
  readonly l2: Entry[] = [];
  readonly blocks: Entry[] = [];
  readonly extended: boolean;
  readonly l1Offset: number;
  readonly tableOffset: number;
  readonly tableBytes: number;
  readonly snapshotsOffset: number;
  readonly snapshots: number;
  readonly #refcountBits: number;

  static async open(path: string): Promise<Patient> {
    const file = await open(path, 'r+');
    const header = Buffer.alloc(HEADER_BYTES);
    await file.read(header, 0, HEADER_BYTES, 0);
    const patient = new Patient(path, file, (await file.stat()).size, header);
    await patient.#readTables(header.readUInt32BE(AT_L1_SIZE));
    return patient;
  }

  private constructor(path: string, file: FileHandle, bytes: number, header: Buffer) {
    this.path = path;
    this.file = file;
    this.bytes = bytes;
    this.version = header.readUInt32BE(4);
    this.cluster = 1 << header.readUInt32BE(AT_CLUSTER_BITS);
    this.extended =
      this.version > 2 && (header.readBigUInt64BE(AT_INCOMPATIBLE) & EXTENDED_L2) !== 0n;
    this.l1Offset = Number(header.readBigUInt64BE(AT_L1_OFFSET));
    this.tableOffset = Number(header.readBigUInt64BE(AT_REFCOUNT_TABLE));
    this.tableBytes = header.readUInt32BE(AT_REFCOUNT_CLUSTERS) * this.cluster;
    this.snapshots = header.readUInt32BE(AT_SNAPSHOTS);
    this.snapshotsOffset = Number(header.readBigUInt64BE(AT_SNAPSHOTS_OFFSET));
    this.#refcountBits = this.version > 2 ? 1 << header.readUInt32BE(AT_REFCOUNT_ORDER) : 16;
  }

  get clusters(): number {
    return Math.ceil(this.bytes / this.cluster);
  }

  /** Of very large images, only the outer L2 tables. */
  async #readTables(l1Entries: number): Promise<void> {
    this.l1.push(...(await this.#table(this.l1Offset, l1Entries)));
    const step = this.extended ? 2 : 1;
    const used = this.usedL1;
    for (const { value } of used.filter(
      (_, index) => index < OUTER_TABLES || used.length - index <= OUTER_TABLES,
    )) {
      const words = await this.#table(Number(value & OFFSET_MASK), this.cluster / 8);
      this.l2.push(...words.filter((_, index) => index % step === 0));
    }
    this.blocks.push(...(await this.#table(this.tableOffset, this.tableBytes / 8)));
  }

  async #table(offset: number, entries: number): Promise<Entry[]> {
    const bytes = Buffer.alloc(entries * 8);
    await this.file.read(bytes, 0, bytes.length, offset);
    return Array.from({ length: entries }, (_, index) => ({
      at: offset + index * 8,
      value: bytes.readBigUInt64BE(index * 8),
    }));
  }

  async put64(at: number, value: bigint): Promise<void> {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(BigInt.asUintN(64, value));
    await this.file.write(bytes, 0, 8, at);
  }

  async put32(at: number, value: number): Promise<void> {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value);
    await this.file.write(bytes, 0, 4, at);
  }

  /** Sets the refcount of a cluster that has a refcount block. */
  async putRefcount(cluster: number, value: bigint): Promise<void> {
    const bits = this.#refcountBits;
    const perBlock = (this.cluster * 8) / bits;
    const block = Number(this.blocks[Math.floor(cluster / perBlock)].value);
    const bit = (cluster % perBlock) * bits;
    const bytes = Buffer.alloc(Math.max(1, bits / 8));
    const at = block + Math.floor(bit / 8);
    await this.file.read(bytes, 0, bytes.length, at);
    if (bits < 8) {
      const mask = ((1 << bits) - 1) << (bit % 8);
      bytes[0] = (bytes[0] & ~mask) | ((Number(value) << (bit % 8)) & mask);
    } else {
      for (let i = 0; i < bytes.length; i++)
        bytes[bytes.length - 1 - i] = Number((value >> BigInt(8 * i)) & 0xffn);
    }
    await this.file.write(bytes, 0, bytes.length, at);
  }

  get usedL1(): Entry[] {
    return this.l1.filter(({ value }) => value !== 0n);
  }

  get usedBlocks(): Entry[] {
    return this.blocks.filter(({ value }) => value !== 0n);
  }

  get dataEntries(): Entry[] {
    return this.l2.filter(({ value }) => (value & OFFSET_MASK) !== 0n && !(value & COMPRESSED));
  }

  get compressedEntries(): Entry[] {
    return this.l2.filter(({ value }) => (value & COMPRESSED) !== 0n);
  }
}

/** Spoils the image at a path. False where it has nothing that could be spoiled like that. */
export async function spoil(path: string, damage: Damage, random: Random): Promise<boolean> {
  const patient = await Patient.open(path);
  try {
    const spoiled = damage(patient, random);
    await spoiled;
    return spoiled !== undefined;
  } finally {
    await patient.file.close();
  }
}

/**
 * One way to spoil an image. Undefined where the image has nothing that could be spoiled like that.
 */
export type Damage = (patient: Patient, random: Random) => Promise<void> | undefined;

function one<T>(random: Random, items: readonly T[]): T {
  return items[random.between(0, items.length - 1)];
}

/** A damage to one of some entries. */
function onEntry(
  entries: (patient: Patient) => Entry[],
  spoil: (entry: Entry, patient: Patient, random: Random) => bigint,
): Damage {
  return (patient, random) => {
    const candidates = entries(patient);
    if (candidates.length === 0) return undefined;
    const entry = one(random, candidates);
    return patient.put64(entry.at, spoil(entry, patient, random));
  };
}

function word(random: Random): bigint {
  return (BigInt(random.next()) << 32n) | BigInt(random.next());
}

function usedCluster(patient: Patient, random: Random): number {
  return Number(
    (one(random, patient.dataEntries.length ? patient.dataEntries : patient.usedL1).value &
      OFFSET_MASK) /
      BigInt(patient.cluster),
  );
}

const data = (patient: Patient): Entry[] => patient.dataEntries;
const compressed = (patient: Patient): Entry[] => patient.compressedEntries;
const tables = (patient: Patient): Entry[] => patient.usedL1;
const blocks = (patient: Patient): Entry[] => patient.usedBlocks;
const empty = (patient: Patient): Entry[] => patient.l2.filter(({ value }) => value === 0n);
const subclusters = (patient: Patient): Entry[] =>
  patient.extended ? patient.dataEntries.map(({ at }) => ({ at: at + 8, value: 0n })) : [];
const otherSubclusters =
  (of: (patient: Patient) => Entry[]) =>
  (patient: Patient): Entry[] =>
    patient.extended ? of(patient).map(({ at }) => ({ at: at + 8, value: 0n })) : [];

/** Every class of damage, by name. */
export const damages: Record<string, Damage> = {
  'a refcount too high': (patient, random) => patient.putRefcount(usedCluster(patient, random), 3n),
  'a refcount of 0': (patient, random) => patient.putRefcount(usedCluster(patient, random), 0n),
  'the header without a refcount': (patient) => patient.putRefcount(0, 0n),
  'a leaked cluster': (patient) =>
    patient.file
      .truncate(patient.bytes + patient.cluster)
      .then(() => patient.putRefcount(patient.clusters, 1n)),
  'a refcount block full of refcounts': (patient, random) =>
    patient.file
      .write(
        Buffer.alloc(patient.cluster, 0xff),
        0,
        patient.cluster,
        Number(one(random, patient.usedBlocks).value),
      )
      .then(() => {}),
  'a refcount block of noise': (patient, random) =>
    patient.file
      .write(
        Buffer.from(Array.from({ length: patient.cluster }, () => random.between(0, 255))),
        0,
        patient.cluster,
        Number(one(random, patient.usedBlocks).value),
      )
      .then(() => {}),
  'a refcount block of zeros': (patient, random) =>
    patient.file
      .write(
        Buffer.alloc(patient.cluster),
        0,
        patient.cluster,
        Number(one(random, patient.usedBlocks).value),
      )
      .then(() => {}),

  'a data entry lost': onEntry(data, () => 0n),
  'a data entry with the other flag': onEntry(data, ({ value }) => value ^ COPIED),
  'a data entry behind the end': onEntry(data, ({ value }) => value + FAR_AWAY),
  'a data entry at the end': onEntry(
    data,
    (_, { clusters, cluster }) => BigInt(clusters * cluster) | COPIED,
  ),
  'a data entry just before the end': onEntry(
    data,
    ({ value }, { bytes, cluster }) =>
      (value & ~OFFSET_MASK) | BigInt(Math.floor((bytes - 1) / cluster) * cluster),
  ),
  'a data entry between two clusters': onEntry(
    data,
    ({ value }, { cluster }) => value + BigInt(cluster / 2 < 512 ? 0 : cluster / 2),
  ),
  'a data entry with reserved bits': onEntry(data, ({ value }) => value | (1n << 60n) | 4n),
  'a data entry of another': onEntry(
    data,
    (_, patient, random) => one(random, patient.dataEntries).value,
  ),
  'a data entry in the L1 table': onEntry(data, (_, { l1Offset }) => BigInt(l1Offset) | COPIED),
  'a data entry in an L2 table': onEntry(
    data,
    (_, patient, random) => one(random, patient.usedL1).value,
  ),
  'a data entry in the refcount table': onEntry(
    data,
    (_, { tableOffset }) => BigInt(tableOffset) | COPIED,
  ),
  'a data entry in a refcount block': onEntry(
    data,
    (_, patient, random) => one(random, patient.usedBlocks).value | COPIED,
  ),
  'a data entry of noise': onEntry(data, (_, __, random) => word(random)),
  'a zero entry with a place between clusters': onEntry(
    data,
    ({ value }, { cluster }) => (value | ZERO) + BigInt(cluster / 2 < 512 ? 0 : cluster / 2),
  ),
  'an empty entry with reserved bits': onEntry(empty, () => 1n << 59n),
  'an empty entry with a flag': onEntry(empty, () => COPIED),
  'an empty entry that becomes a zero one': onEntry(empty, () => ZERO),
  'an empty entry of noise': onEntry(empty, (_, __, random) => word(random)),
  'an empty entry that becomes a compressed one': onEntry(
    empty,
    (_, { cluster }) => COMPRESSED | BigInt(5 * cluster + 77),
  ),

  'a compressed entry with a flag': onEntry(compressed, ({ value }) => value | COPIED),
  'a compressed entry lost': onEntry(compressed, () => 0n),
  'a compressed entry behind the end': onEntry(compressed, ({ value }) => value + (1n << 36n)),
  'a compressed entry of another': onEntry(
    compressed,
    (_, patient, random) => one(random, patient.compressedEntries).value,
  ),
  'a compressed entry of noise': onEntry(compressed, (_, __, random) => word(random) | COMPRESSED),
  'a compressed entry made plain': onEntry(compressed, ({ value }) => value & ~COMPRESSED),

  'subclusters both allocated and zero': onEntry(subclusters, () => 0x0000000100000001n),
  'subclusters of noise': onEntry(subclusters, (_, __, random) => word(random)),
  'allocated subclusters without a place': onEntry(otherSubclusters(empty), () => 0xffn),
  'zero subclusters without a place': onEntry(otherSubclusters(empty), () => 0xffn << 32n),
  'a compressed cluster with subclusters': onEntry(otherSubclusters(compressed), () => 1n),

  'an L1 entry lost': onEntry(tables, () => 0n),
  'an L1 entry with the other flag': onEntry(tables, ({ value }) => value ^ COPIED),
  'an L1 entry with nothing but a flag': onEntry(tables, () => COPIED),
  'an L1 entry behind the end': onEntry(tables, ({ value }) => value + FAR_AWAY),
  'an L1 entry between two clusters': onEntry(tables, ({ value }) => value + 512n),
  'an L1 entry with reserved bits': onEntry(tables, ({ value }) => value | 1n),
  'an L1 entry of another': onEntry(
    ({ l1 }) => l1,
    (_, patient, random) => one(random, patient.usedL1).value,
  ),
  'an L1 entry in a data cluster': onEntry(
    tables,
    (_, patient, random) =>
      one(random, patient.dataEntries.length ? patient.dataEntries : patient.usedL1).value | COPIED,
  ),
  'an L1 entry in the L1 table': onEntry(tables, (_, { l1Offset }) => BigInt(l1Offset) | COPIED),
  'an L1 entry of noise': onEntry(tables, (_, __, random) => word(random)),

  'a refcount table entry lost': onEntry(blocks, () => 0n),
  'a refcount table entry behind the end': onEntry(blocks, ({ value }) => value + FAR_AWAY),
  'a refcount table entry between two clusters': onEntry(blocks, ({ value }) => value + 512n),
  'a refcount table entry with reserved bits': onEntry(blocks, ({ value }) => value | 8n),
  'a refcount table entry in a data cluster': onEntry(
    blocks,
    (_, patient, random) =>
      one(random, patient.dataEntries.length ? patient.dataEntries : patient.usedL1).value &
      OFFSET_MASK,
  ),
  'a second refcount table entry for a block': (patient) => {
    const free = patient.blocks.find(({ value }) => value === 0n);
    return free && patient.put64(free.at, patient.usedBlocks[0].value);
  },
  'a refcount table entry of noise': onEntry(blocks, (_, __, random) => word(random)),
  'a refcount table of zeros': (patient) =>
    patient.file
      .write(Buffer.alloc(patient.tableBytes), 0, patient.tableBytes, patient.tableOffset)
      .then(() => {}),

  'a header that seeks the refcount table elsewhere': (patient) =>
    patient.put64(AT_REFCOUNT_TABLE, BigInt(patient.l1Offset)),
  'a header that seeks the L1 table elsewhere': (patient) =>
    patient.put64(AT_L1_OFFSET, BigInt(patient.tableOffset)),

  'a snapshot whose L1 table is between two clusters': (patient) =>
    patient.snapshots ? patient.put64(patient.snapshotsOffset, 513n) : undefined,
  'a snapshot whose L1 table is the data': (patient, random) =>
    patient.snapshots
      ? patient.put64(patient.snapshotsOffset, one(random, patient.dataEntries).value & OFFSET_MASK)
      : undefined,
  'a snapshot whose L1 table is behind the end': (patient) =>
    patient.snapshots ? patient.put64(patient.snapshotsOffset, FAR_AWAY) : undefined,
  'a snapshot whose L1 table is too large': (patient) =>
    patient.snapshots ? patient.put32(patient.snapshotsOffset + 8, 0x7fffffff) : undefined,

  'a file that is cut in a cluster': (patient, random) =>
    truncate(patient.path, random.between(patient.bytes / 2, patient.bytes - 1)),
  'a file that is cut between clusters': (patient, random) =>
    truncate(
      patient.path,
      random.between(Math.ceil(patient.clusters / 2), patient.clusters - 1) * patient.cluster,
    ),
  'a file with more behind it': (patient) =>
    truncate(patient.path, patient.bytes + patient.cluster * 2 + 100),
  'a flipped byte in a table': (patient, random) => {
    const entry = one(random, [
      ...patient.usedL1,
      ...patient.dataEntries,
      ...patient.compressedEntries,
      ...patient.usedBlocks,
    ]);
    return patient.put64(
      entry.at,
      entry.value ^ (BigInt(random.between(1, 255)) << BigInt(8 * random.between(0, 7))),
    );
  },
};
