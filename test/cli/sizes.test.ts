import { expect, it } from 'vitest';
import {
  formatDuration,
  formatElapsed,
  formatExactly,
  formatSize,
  parseSize,
} from '../../hosts/faces/cli/sizes.ts';

it('reads sizes as qemu-img does', () => {
  const read = Object.fromEntries(
    ['0', '512', '64K', '64k', '1.5G', '2T', '.5M', '1P', '7B', '1.0001K'].map((text) => [
      text,
      parseSize(text),
    ]),
  );
  expect(read).toEqual({
    0: 0,
    512: 512,
    '64K': 65536,
    '64k': 65536,
    '1.5G': 1.5 * 1024 ** 3,
    '2T': 2 * 1024 ** 4,
    '.5M': 524288,
    '1P': 1024 ** 5,
    '7B': 7,
    '1.0001K': 1024,
  });
});

it('refuses what is no size', () => {
  for (const text of [
    '',
    'K',
    '-1',
    '1.5',
    '1 K',
    '1KiB',
    '1KB',
    '0x10',
    'ten',
    '1e3',
    '9P1',
    '9E',
    '99999999999999999',
    'NaN',
  ]) {
    expect(parseSize(text), text).toBeUndefined();
  }
});

it('writes sizes as qemu-img does', () => {
  expect(
    [0, 1, 999, 1000, 1023, 1024, 65536, 1585152, 7340544, 1024 ** 4, 1.5 * 1024 ** 3].map(
      formatSize,
    ),
  ).toEqual([
    '0 B',
    '1 B',
    '999 B',
    '0.977 KiB',
    '0.999 KiB',
    '1 KiB',
    '64 KiB',
    '1.51 MiB',
    '7 MiB',
    '1 TiB',
    '1.5 GiB',
  ]);
  expect(formatExactly(65536)).toBe('64 KiB (65536 bytes)');
});

it('writes times', () => {
  expect([0, 6.2, 60, 754, 3723].map(formatDuration)).toEqual([
    '0:00',
    '0:07',
    '1:00',
    '12:34',
    '1:02:03',
  ]);
  expect([0.0333, 4.26, 59, 61].map(formatElapsed)).toEqual(['0.033 s', '4.3 s', '59 s', '1:01']);
});
