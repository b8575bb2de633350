/**
 * Makes the fixtures that the suite's server gives, with qemu-img: one disk in each format that a
 * base comes in, and faulty ones.
 */
import { copyFile, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Container } from '../fixtures/container-names.ts';
import { CONTAINERS } from '../fixtures/container-names.ts';
import { CONTAINER_PEERS, ova, pack } from '../fixtures/containers.ts';
import { writeQcow2, writeRaw } from '../fixtures/layout.ts';
import type { PeerName } from '../support/peer.ts';
import { peerPath } from '../support/peer.ts';
import type { QemuFormat } from '../support/qemu.ts';
import { convertImage, createImage } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import { BASE_RUNS, BASE_SIZE, CLUSTER, tailContent, UPPER_RUNS } from './content.ts';

/**
 * qcow2 header (qcow2 specification, "Header"): the table that says where the clusters are, and
 * what a reader must understand.
 */
const HEADER_L1_OFFSET = 40;
const HEADER_INCOMPATIBLE = 72;
/** Other programs' formats; the VMDK is one whose grains are deflated. */
const OTHERS: [name: string, format: QemuFormat, options?: Record<string, string>][] = [
  ['base.vmdk', 'vmdk', { subformat: 'streamOptimized' }],
  ['base.vhd', 'vpc', { force_size: 'on' }],
  ['base.vhdx', 'vhdx'],
  ['base.vdi', 'vdi'],
  ['base.qed', 'qed'],
  ['base.hdd', 'parallels'],
];
/** No version of the format has given this bit a meaning. */
const UNKNOWN_FEATURE = 1n << 40n;

/** What they are made with. */
export const FIXTURE_PEERS: readonly PeerName[] = ['qemu-img', 'qemu-io', ...CONTAINER_PEERS];

/**
 * Writes base.raw, base.qcow2, base-zlib.qcow2, base-zstd.qcow2, base-extended.qcow2, the OTHERS,
 * upper.qcow2, tail.raw, corrupt.qcow2, unknown.qcow2.
 */
export async function makeFixtures(folder: string): Promise<void> {
  const path = (name: string): string => join(folder, name);
  const raw = path('base.raw');
  await writeRaw(raw, BASE_SIZE, BASE_RUNS);
  await writeFile(path('tail.raw'), tailContent());
  await Promise.all([
    convertImage(raw, path('base.qcow2'), { from: 'raw', with: { cluster_size: CLUSTER } }),
    convertImage(raw, path('base-zlib.qcow2'), { from: 'raw', compress: true }),
    convertImage(raw, path('base-zstd.qcow2'), {
      from: 'raw',
      compress: true,
      with: { compression_type: 'zstd' },
    }),
    ...OTHERS.map(([name, to, options]) =>
      convertImage(raw, path(name), { from: 'raw', to, with: options }),
    ),
    convertImage(raw, path('base-extended.qcow2'), { from: 'raw', with: { extended_l2: 'on' } }),
  ]);
  await createImage(path('upper.qcow2'), {
    size: BASE_SIZE,
    base: 'base.qcow2',
    baseFormat: 'qcow2',
    unchecked: true,
  });
  await writeQcow2(path('upper.qcow2'), UPPER_RUNS);
  await patched(path('base.qcow2'), path('unknown.qcow2'), HEADER_INCOMPATIBLE, UNKNOWN_FEATURE);
  await patched(path('base.qcow2'), path('corrupt.qcow2'), HEADER_L1_OFFSET, 2n ** 40n);
  await makeContainers(folder);
}

/** Writes base.raw.CONTAINER, base.qcow2.CONTAINER, machine.ova, two.zip, and damaged ones. */
async function makeContainers(folder: string): Promise<void> {
  const path = (name: string): string => join(folder, name);
  for (const image of ['base.raw', 'base.qcow2'])
    for (const container of CONTAINERS) await pack(path(image), container);
  await ova(path('base.qcow2'), path('machine.ova'));
  await run(peerPath('zip'), ['-q', '-1', 'two.zip', 'base.raw', 'base.qcow2'], { cwd: folder });
  for (const container of ['xz', 'gz', 'zst', 'bz2'] as const satisfies readonly Container[]) {
    const bytes = await readFile(path(`base.raw.${container}`));
    bytes[Math.floor(bytes.length * 0.7)] ^= 1;
    await writeFile(path(`flipped.${container}`), bytes);
  }
  const whole = await readFile(path('base.raw.gz'));
  await writeFile(path('cut.gz'), whole.subarray(0, whole.length - 5));
}

/** A copy in which one big-endian field of eight bytes has another value. */
async function patched(from: string, to: string, offset: number, value: bigint): Promise<void> {
  await copyFile(from, to);
  const file = await open(to, 'r+');
  const field = Buffer.alloc(8);
  field.writeBigUInt64BE(value);
  await file.write(field, 0, field.length, offset);
  await file.close();
}
