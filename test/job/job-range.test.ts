/** A job that was noted down is taken up on a disk that has shrunk since. */
import { expect, it } from 'vitest';
import { jobWithin } from '../../hosts/disk/job/range.ts';

const MIB = 1024 * 1024;

it.each([
  [{}, {}],
  [
    { offset: 0, length: 0 },
    { offset: 0, length: 0 },
  ],
  [
    { offset: MIB, length: MIB, speed: 5 },
    { offset: MIB, length: MIB, speed: 5 },
  ],
  [
    { offset: MIB, length: 2 * MIB, speed: 5 },
    { offset: MIB, length: MIB, speed: 5 },
  ],
  [{ length: 3 * MIB }, { length: 2 * MIB }],
  [{ offset: MIB }, { offset: MIB }],
  [{ offset: 2 * MIB, length: MIB }, undefined],
  [{ offset: 3 * MIB }, undefined],
])('takes up %j of a disk of 2 MiB as %j', (noted, taken) => {
  expect(jobWithin(noted, 2 * MIB)).toEqual(taken);
});
