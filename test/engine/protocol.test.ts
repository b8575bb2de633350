/**
 * The numbers that engine and hosts share: none stands for two things, and none lacks its words.
 */
import { expect, it } from 'vitest';
import * as protocol from '../../engine/protocol.ts';
import { codeOfNumber, numberOfCode, reasonText } from '../../hosts/disk/driver/reasons.ts';

function numbersOf(prefix: RegExp): [name: string, number: number][] {
  return Object.entries(protocol).filter(([name]) => prefix.test(name));
}

const REASONS = numbersOf(/^R_/);
const CODES = numbersOf(/^(E[A-Z]+|ABORTED)$/);

it.each(REASONS)('has a sentence for %s', (_, number) => {
  expect(reasonText(number)).toMatch(/^\S.+\S$/);
  expect(reasonText(number)).not.toBe('unknown reason');
});

it.each(CODES)('calls %s by its name, and takes it back', (name, number) => {
  expect(codeOfNumber(number)).toBe(name);
  expect(numberOfCode(codeOfNumber(number))).toBe(number);
});

it.each([
  /^R_/,
  /^(E[A-Z]+|ABORTED|OK)$/,
  /^KIND_/,
  /^OP_/,
  /^REPAIR_/,
  /^FORMAT_/,
  /^IMAGE_/,
  /^JOB_/,
  /^STATUS_/,
  /^ON_ERROR_/,
  /^(ABSENT|DATA|ZEROES|COMPRESSED_DATA)$/,
  /^CHECK_(?!NUMBERS)/,
  /^SNAPSHOT_(?!NUMBERS|TEXT)/,
  /^BITMAP_/,
])('gives no number of %s twice', (prefix) => {
  const numbers = numbersOf(prefix).map(([, number]) => number);
  expect(numbers.length).toBeGreaterThan(1);
  expect(new Set(numbers).size).toBe(numbers.length);
});

it('keeps reports within their length', () => {
  for (const [name, number] of numbersOf(/^(IMAGE|JOB)_/))
    expect(number, name).toBeLessThan(protocol.REPORT_NUMBERS);
});
