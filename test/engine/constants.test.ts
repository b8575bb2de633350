/**
 * What engine and hosts both know, each in its own file, held against each other: the engine's
 * sources are read as text.
 */
import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { ENGINE_CODES, ENGINE_REASONS } from '../../hosts/disk/driver/reasons.ts';

async function source(path: string): Promise<string> {
  return readFile(new URL(`../../${path}`, import.meta.url), 'utf8');
}

/**
 * Number constants of a TypeScript or AssemblyScript file whose names match, in the order of the
 * file: `const NAME[: type] = number`.
 */
async function constants(path: string, name: RegExp): Promise<Map<string, number>> {
  const text = await source(path);
  const found = [
    ...text.matchAll(/^\s*(?:export )?const (\w+)(?:: \w+)? = (-?\d+(?: << \d+)?);/gm),
  ];
  return new Map(
    found.filter(([, key]) => name.test(key)).map(([, key, value]) => [key, evaluate(value)]),
  );
}

function evaluate(text: string): number {
  const [value, shift] = text.split(' << ').map(Number);
  return value * 2 ** (shift ?? 0);
}

/**
 * The members of `const NAME = { a: 1, … }`, with the engine's way of writing names: `aB` is `A_B`.
 */
async function members(path: string, name: string): Promise<Map<string, number>> {
  const body = new RegExp(`const ${name} = \\{([^}]*)\\}`).exec(await source(path))?.[1];
  if (body === undefined) throw new Error(`${path} has no object ${name}`);
  return new Map(
    [...body.matchAll(/(\w+): (\d+)/g)].map(([, key, value]) => [
      key.replace(/[A-Z]/g, '_$&').toUpperCase(),
      Number(value),
    ]),
  );
}

function withoutPrefix(values: Map<string, number>, prefix: string): Map<string, number> {
  return new Map([...values].map(([key, value]) => [key.slice(prefix.length), value]));
}

it('gives the error codes the same numbers', async () => {
  const codes = await constants('engine/errors.ts', /^(?!R_)/);
  expect([...codes.values()]).toEqual(ENGINE_CODES.map((_, number) => number));
  // 0 is no error.
  expect([...codes.keys()].slice(1)).toEqual(ENGINE_CODES.slice(1));
});

it('has a sentence for each of the reasons', async () => {
  const reasons = await constants('engine/errors.ts', /^R_/);
  expect([...reasons.values()]).toEqual(ENGINE_REASONS.map((_, number) => number));
  expect(ENGINE_REASONS.filter((reason) => reason.trim() === '')).toEqual([]);
});

/**
 * A word that says what a reason is about has to be in its sentence, so that no two have changed
 * places.
 */
const ABOUT: Record<string, RegExp> = {
  R_MAGIC: /magic/,
  R_VERSION: /version/,
  R_HEADER_LENGTH: /header length/,
  R_ENCRYPTED: /encrypted/,
  R_EXTERNAL_DATA: /external data/,
  R_MARKED_CORRUPT: /marked corrupt/,
  R_REFCOUNT_ORDER: /refcount width/,
  R_L1_SIZE: /L1 table is too small/,
  R_L1_OFFSET: /L1 table/,
  R_REFCOUNT_TABLE: /refcount table/,
  R_BACKING_NAME: /backing file/,
  R_EXTENSION: /extension/,
  R_COMPRESSION_TYPE: /compression type/,
  R_SIZE: /2\^53/,
  R_SNAPSHOTS: /snapshots/,
  R_BITMAPS: /bitmaps/,
  R_EXTENDED_L2: /extended L2/,
  R_L1_ENTRY: /L1 entry/,
  R_L2_ENTRY: /L2 entry/,
  R_CLUSTER_UNALIGNED: /aligned/,
  R_CLUSTER_OUTSIDE: /outside/,
  R_CLUSTER_IN_METADATA: /own header or tables/,
  R_COMPRESSED: /compressed cluster/,
  R_SUBCLUSTERS: /subcluster/,
  R_REFCOUNT: /refcount 0/,
  R_SHARED_CLUSTER: /shared/,
  R_RANGE: /range/,
  R_READ_ONLY: /read-only/,
  R_JOB_ACTIVE: /active/,
  R_NO_JOB: /no such job/,
  R_ABORTED: /aborted/,
  R_MEMORY: /memory/,
  R_HEADER_FULL: /name of the base/,
  R_TOO_LARGE: /too large/,
  R_FLUSH_LOST: /flush/,
  R_NOT_A_BASE: /chain/,
  R_TRUNCATED: /cut off/,
  R_SNAPSHOT_TABLE: /snapshot table/,
  R_SHRINK: /smaller/,
  R_OTHER_FORMAT: /neither raw nor qcow2/,
  R_REPAIR: /repaired/,
  R_SHARED_PLACE: /share one place/,
  R_DAMAGED: /refcount table or blocks/,
  R_UNREAD: /cannot be followed/,
  R_FOREIGN: /not known/,
};

it.each(Object.entries(ABOUT))('says of %s what it is about', async (name, word) => {
  const number = (await constants('engine/errors.ts', /^R_/)).get(name)!;
  expect(ENGINE_REASONS[number]).toMatch(word);
});

it('numbers the requests alike', async () => {
  const kinds = withoutPrefix(await constants('engine/core/task.ts', /^KIND_/), 'KIND_');
  const last = kinds.get('REQUEST_LAST')!;
  const requests = [...kinds].filter(
    ([key, value]) => key !== 'NONE' && key !== 'REQUEST_LAST' && value <= last,
  );
  expect(await members('hosts/disk/driver/engine.ts', 'Kind')).toEqual(new Map(requests));
});

it('numbers the operations of the ring alike', async () => {
  expect(await members('hosts/disk/driver/engine.ts', 'Op')).toEqual(
    withoutPrefix(await constants('engine/core/ring.ts', /^OP_/), 'OP_'),
  );
});

it('knows the same flags, versions, formats, policies and sizes', async () => {
  const host = await constants('hosts/disk/driver/engine.ts', /./);
  const disk = await constants('hosts/disk/disk.ts', /./);
  const opening = await constants('hosts/disk/opening.ts', /./);
  const flags = await constants('hosts/disk/driver/base-reads.ts', /^FLAG_/);
  const limits = await constants('engine/limits.ts', /./);
  for (const [flag, value] of await constants('engine/core/ring.ts', /^FLAG_/))
    expect(flags.get(flag), flag).toBe(value);
  expect(host.get('INTERFACE_VERSION')).toBe(
    (await constants('engine/index.ts', /VERSION/)).get('INTERFACE_VERSION'),
  );
  expect((await constants('hosts/disk/driver/texts.ts', /./)).get('TEXT_BYTES')).toBe(
    limits.get('TEXT_BYTES'),
  );
  expect((await constants('hosts/disk/driver/answers.ts', /./)).get('EXTENTS_BLOCK_BYTES')).toBe(
    limits.get('BLOCK_BYTES'),
  );
  expect((await constants('hosts/disk/driver/holes.ts', /./)).get('BLOCK_BYTES')).toBe(
    2 ** limits.get('HOLE_BLOCK_BITS')!,
  );
  expect(disk.get('WRITE_ZEROES')).toBe(
    (await constants('engine/requests/write.ts', /WRITE/)).get('WRITE_ZEROES'),
  );
  expect(opening.get('OPEN_WRITABLE')).toBe(
    (await constants('engine/requests/open.ts', /OPEN/)).get('OPEN_WRITABLE'),
  );
  expect((await constants('hosts/disk/recorded.ts', /./)).get('IDENTITY_BYTES_MAX')).toBe(
    (await constants('engine/overlay/backing.ts', /BYTES_MAX/)).get('IDENTITY_BYTES_MAX'),
  );
  expect((await constants('hosts/disk/job.ts', /./)).get('STATUS_NONE')).toBe(
    (await constants('engine/core/job.ts', /STATUS/)).get('STATUS_NONE'),
  );
  const policies = withoutPrefix(await constants('engine/core/job.ts', /^ON_ERROR_/), 'ON_ERROR_');
  expect(await members('hosts/disk/job.ts', 'ON_ERROR')).toEqual(policies);
  const formats = withoutPrefix(
    await constants('engine/core/image.ts', /^FORMAT_(?!PROBE)/),
    'FORMAT_',
  );
  expect(formats).toEqual(
    new Map([
      ['RAW', 1],
      ['QCOW2', 2],
    ]),
  );
});

/** Bytes that the fields of an @unmanaged class take, by their types. */
async function recordBytes(path: string, name: string): Promise<number> {
  const body = new RegExp(`class ${name} \\{([\\s\\S]*?)\\n\\}`).exec(await source(path))![1];
  const types = [...body.matchAll(/^ {2}\w+: (u32|i32|u64);/gm)].map(([, type]) => type);
  return types.reduce((bytes, type) => bytes + (type === 'u64' ? 8 : 4), 0);
}

it('lays the entries of the ring and of a map out alike', async () => {
  const host = await constants('hosts/disk/driver/engine.ts', /_WORDS$/);
  expect(host.get('SUBMISSION_WORDS')! * 4).toBe(
    await recordBytes('engine/core/ring.ts', 'Submission'),
  );
  expect(host.get('COMPLETION_WORDS')! * 4).toBe(
    await recordBytes('engine/core/ring.ts', 'Completion'),
  );
  expect(
    (await constants('hosts/disk/driver/answers.ts', /EXTENT_BYTES/)).get('EXTENT_BYTES'),
  ).toBe(await recordBytes('engine/requests/map.ts', 'ExtentRecord'));
});
