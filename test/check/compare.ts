/** Holds our check of an image against `qemu-img check` of the same image, number by number. */
import { expect } from 'vitest';
import type { CheckReport } from '../../hosts/api/check.ts';
import { checkDisk } from '../../hosts/node/index.ts';
import type { QemuCheck } from '../support/qemu.ts';
import { check, convertImage } from '../support/qemu.ts';

/** What both reports tell of an image, by QEMU's names. */
export interface Numbers {
  corruptions: number;
  leaks: number;
  'allocated-clusters': number;
  'compressed-clusters': number;
  'fragmented-clusters': number;
  'image-end-offset': number;
  'total-clusters': number;
}

export function ourNumbers(found: CheckReport): Numbers {
  return {
    corruptions: found.corruptions,
    leaks: found.leaks,
    'allocated-clusters': found.allocatedClusters,
    'compressed-clusters': found.compressedClusters,
    'fragmented-clusters': found.fragmentedClusters,
    'image-end-offset': found.imageEndOffset,
    'total-clusters': found.totalClusters,
  };
}

/** QEMU leaves out what is 0. */
export function qemuNumbers({ report, messages }: QemuCheck): Numbers {
  if (report === undefined) throw new Error(`qemu-img could not check: ${messages}`);
  const number = (name: keyof Numbers): number => report[name] ?? 0;
  return {
    corruptions: number('corruptions'),
    leaks: number('leaks'),
    'allocated-clusters': number('allocated-clusters'),
    'compressed-clusters': number('compressed-clusters'),
    'fragmented-clusters': number('fragmented-clusters'),
    'image-end-offset': number('image-end-offset'),
    'total-clusters': number('total-clusters'),
  };
}

/**
 * As expectSameAsQemu, of a file that is cut: QEMU passes over compressed clusters that begin
 * shortly behind the file's end, though it cannot read them.
 */
export async function expectNoLessThanQemu(path: string, label: string): Promise<void> {
  const ours = await checkDisk({ overlay: path });
  const theirs = qemuNumbers(await check(path));
  if (ours === undefined) throw new Error(`${path} is taken for a raw image`);
  const more = ours.corruptions - theirs.corruptions;
  expect(ourNumbers(ours), label).toEqual({
    ...theirs,
    corruptions: theirs.corruptions + Math.max(0, more),
  });
  if (more > 0 && theirs.corruptions === 0)
    await expect(convertImage(path, `${path}.copy`, { from: 'qcow2' }), label).rejects.toThrow();
}

/** Checks a qcow2 image with both, expects the same, and hands back what both found. */
export async function expectSameAsQemu(
  path: string,
  label: string = path,
  memory?: number,
): Promise<Numbers> {
  const ours = await checkDisk({ overlay: path, memory });
  const theirs = await check(path);
  if (ours === undefined) throw new Error(`${path} is taken for a raw image`);
  const numbers = ourNumbers(ours);
  expect(numbers, `${label}\n${theirs.messages}`).toEqual(qemuNumbers(theirs));
  return numbers;
}
