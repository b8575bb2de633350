/** The file, the plan of a replay, and merging: by numbers, and by files made to do harm. */
import { deflate } from 'pako';
import { describe, expect, it } from 'vitest';
import type { Profile, ProfileRange } from '../../hosts/profiles/format.ts';
import {
  bytesOf,
  decodeProfile,
  encodeProfile,
  FILE_BYTES_GOAL,
  RANGES_MAX,
} from '../../hosts/profiles/format.ts';
import { mergeProfiles, smallFileOf } from '../../hosts/profiles/merge.ts';
import { pictureOf } from '../../hosts/profiles/picture.ts';
import { planOf } from '../../hosts/profiles/plan.ts';
import { joined, Spans } from '../../hosts/profiles/ranges.ts';
import { Random } from '../fixtures/content.ts';

const KIB = 1024;
const MIB: number = 1024 * KIB;
const GIB: number = 1024 * MIB;

function profileOf(ranges: ProfileRange[], more: Partial<Profile> = {}): Profile {
  const base = { size: 2 * GIB, identity: 'etag "x"', container: undefined, packed: undefined };
  return { base, diskSize: 2 * GIB, seconds: 12.5, boots: 1, ranges, ...more };
}

/** Ranges that do not overlap, in any order. */
function anyRanges(seed: number, count: number, diskSize: number, longest = 32): ProfileRange[] {
  const random = new Random(seed);
  const known = new Spans();
  const ranges: ProfileRange[] = [];
  let ms = 0;
  while (ranges.length < count) {
    const offset = random.between(0, diskSize / 4096 - longest) * 4096;
    const end = offset + random.between(1, longest) * 4096;
    ms += random.between(0, 5) * 16;
    for (const { from, to } of known.add(offset, end))
      ranges.push({ offset: from, length: to - from, ms });
  }
  return ranges;
}

describe('the file', () => {
  it.each([0, 1, 2, 700])('gives back what was put in: %i ranges', async (count) => {
    const profile = profileOf(anyRanges(count, count, 2 * GIB));
    expect(await decodeProfile(await encodeProfile(profile))).toEqual(profile);
  });

  it('tells whole units, and no more than the disk has', async () => {
    const diskSize = 10 * MIB + 512;
    const ranges = [
      { offset: 5000, length: 10, ms: 3 },
      { offset: diskSize - 512, length: 512, ms: 40 },
    ];
    const read = await decodeProfile(await encodeProfile(profileOf(ranges, { diskSize })));
    expect(read.ranges).toEqual([
      { offset: 4096, length: 4096, ms: 0 },
      { offset: 10 * MIB, length: 512, ms: 48 },
    ]);
  });

  it('of a boot of 150 MB has 20 KiB at most', async () => {
    // As boots read: some thousand files, one after another, each in a few runs near one another.
    const random = new Random(5);
    const known = new Spans();
    const ranges: ProfileRange[] = [];
    let [bytes, ms] = [0, 0];
    while (bytes < 150e6) {
      let at = random.between(0, 500_000) * 4096;
      for (let run = random.between(1, 6); run > 0; run--) {
        const length = random.between(1, 16) * random.between(1, 4) * 4096;
        for (const { from, to } of known.add(at, at + length)) {
          ranges.push({ offset: from, length: to - from, ms });
          bytes += to - from;
        }
        at += length + random.between(0, 3) * 4096;
        ms += random.between(0, 30);
      }
    }
    const { file, profile } = await smallFileOf(profileOf(ranges, { diskSize: 4 * GIB }));
    expect(file.length).toBeLessThanOrEqual(FILE_BYTES_GOAL);
    expect(bytesOf(profile.ranges)).toBeLessThanOrEqual(bytesOf(ranges) * 1.1);
  });

  it('that is something else, of another version, or damaged is refused by name', async () => {
    const file = await encodeProfile(profileOf(anyRanges(1, 50, GIB)));
    const refused = async (bytes: Uint8Array, code: string): Promise<void> =>
      expect(decodeProfile(bytes, 'a.profile')).rejects.toMatchObject({
        code,
        message: expect.stringMatching(/^a\.profile is /),
      });
    await refused(new Uint8Array(0), 'EINVAL');
    await refused(new TextEncoder().encode('<html>404</html>'), 'EINVAL');
    await refused(Object.assign(file.slice(), { 7: 2 }), 'EUNSUPPORTED');
    for (let at = 8; at < file.length; at++) await refused(file.slice(0, at), 'ECORRUPT');
    for (let at = 8; at < file.length; at++) {
      const damaged = file.slice();
      damaged[at] ^= 1 << (at % 8);
      await refused(damaged, 'ECORRUPT');
    }
    await refused(new Uint8Array([...file.subarray(0, 8), ...new Uint8Array(2 * MIB)]), 'ECORRUPT');
  });

  it('that is made to do harm is refused by name', async () => {
    const header = JSON.stringify({ base: { size: GIB }, diskSize: GIB, seconds: 1, boots: 1 });
    const made = (body: number[], head = header): Uint8Array => {
      const text = new TextEncoder().encode(head);
      const length = [(text.length & 127) | 128, text.length >> 7];
      const bytes = deflate(new Uint8Array([...length, ...text, ...body]));
      return new Uint8Array([...new TextEncoder().encode('MLLPROF\x01'), ...bytes]);
    };
    expect((await decodeProfile(made([1, 0, 0, 0]))).ranges).toHaveLength(1);
    const huge = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
    const bad: [string, Uint8Array][] = [
      ['a range before the disk', made([1, 1, 0, 0])],
      ['a range behind it', made([1, 128, 128, 64, 0, 0])],
      ['two that overlap', made([2, 0, 3, 1, 1, 0, 0])],
      ['a count of too many', made([255, 255, 127])],
      ['a number without end', made([1, ...huge, 0, 0])],
      ['more than there is room for', made([1, 0, 255, 255, 255, 1, 0])],
      ['something behind its end', made([1, 0, 0, 0, 0])],
      ['no header', made([0], '{}')],
      ['a header that is none', made([0], 'null')],
      ['a size that is none', made([0], header.replace(`"diskSize":${GIB}`, '"diskSize":-1'))],
      [
        'a bomb',
        new Uint8Array([
          ...new TextEncoder().encode('MLLPROF\x01'),
          ...deflate(new Uint8Array(64 * MIB)),
        ]),
      ],
    ];
    for (const [what, file] of bad)
      await expect(decodeProfile(file), what).rejects.toMatchObject({ code: 'ECORRUPT' });
  });
});

describe('the plan of a replay', () => {
  const shape = { size: GIB, cluster: 64 * KIB, most: 512 * KIB };

  it('is of whole clusters, each once, within the disk, none too large', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const ranges = anyRanges(seed, 300, GIB);
      const plan = planOf(ranges, { ...shape, size: GIB - 512 });
      const seen = new Spans();
      for (const { offset, length } of plan) {
        expect(offset % shape.cluster).toBe(0);
        expect(length).toBeLessThanOrEqual(shape.most);
        expect(offset + length).toBeLessThanOrEqual(GIB - 512);
        expect(seen.add(offset, offset + length)).toHaveLength(1);
      }
      for (const { offset, length } of ranges)
        expect(seen.without(offset, Math.min(offset + length, GIB - 512))).toEqual([]);
    }
  });

  it('bridges the smallest gaps, and few bytes of them', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const ranges = anyRanges(seed, 400, GIB / 8);
      const exact = planOf(ranges, { ...shape, most: shape.cluster });
      const clusters = new Spans();
      for (const { offset, length } of ranges)
        clusters.add(
          Math.floor(offset / shape.cluster) * shape.cluster,
          Math.ceil((offset + length) / shape.cluster) * shape.cluster,
        );
      const plan = planOf(ranges, shape);
      expect(plan.length).toBeLessThan(exact.length);
      expect(bytesOf(plan) / bytesOf(exact)).toBeLessThanOrEqual(1.125);
    }
  });

  it('keeps the order of what lies far apart', () => {
    const ranges = [9, 1, 7, 3].map((place, i) => ({
      offset: place * 64 * MIB,
      length: 64 * KIB,
      ms: i,
    }));
    expect(planOf(ranges, shape).map(({ offset }) => offset / (64 * MIB))).toEqual([9, 1, 7, 3]);
  });
});

it('ranges are joined with what follows soon and lies near, and only with that', () => {
  const ranges = [
    { offset: 0, length: 4096, ms: 1 },
    { offset: 64 * MIB, length: 8 * MIB, ms: 2 },
    { offset: 8192, length: 4096, ms: 3 },
    { offset: 4096, length: 4096, ms: 4 },
  ];
  // 8 MiB were read in between: that is not soon.
  expect(joined(ranges, 4096)).toHaveLength(3);
  expect(joined([ranges[0], ranges[2]], 4096)).toEqual([{ offset: 0, length: 12288, ms: 1 }]);
  expect(joined([ranges[0], ranges[2]], 0)).toHaveLength(2);
  expect(joined([ranges[0], ranges[3], ranges[2]], 0, 8192)).toHaveLength(2);
});

describe('several boots', () => {
  const range = (place: number, ms: number): ProfileRange => ({
    offset: place * MIB,
    length: 64 * KIB,
    ms,
  });
  const places = (profile: Profile): number[] => profile.ranges.map(({ offset }) => offset / MIB);

  it('give what all of them read first, then what most did, and leave out the rest', () => {
    const merged = mergeProfiles([
      profileOf([range(1, 0), range(5, 100), range(2, 200), range(7, 300)]),
      profileOf([range(1, 0), range(6, 50), range(2, 150), range(5, 160)]),
      profileOf([range(2, 10), range(8, 20), range(1, 30)]),
    ]);
    expect(places(merged)).toEqual([1, 2, 5]);
    expect(merged).toMatchObject({ boots: 3, seconds: 12.5 });
  });

  it('keep the order of what was read at one time', () => {
    const boot = profileOf([range(9, 0), range(12, 16), range(5, 16)]);
    expect(places(mergeProfiles([boot, boot]))).toEqual([9, 12, 5]);
  });

  it('of which there are two, all is kept', () => {
    const merged = mergeProfiles([
      profileOf([range(1, 0), range(2, 100)]),
      profileOf([range(3, 0), range(2, 100)]),
    ]);
    expect(places(merged)).toEqual([2, 1, 3]);
  });

  it('may have read parts of one another, and can be put into a file', async () => {
    const one = anyRanges(1, 300, GIB / 16);
    const other = anyRanges(2, 300, GIB / 16);
    const merged = mergeProfiles([profileOf(one), profileOf(other)]);
    const all = new Spans();
    for (const { offset, length } of [...one, ...other]) all.add(offset, offset + length);
    for (const { offset, length } of merged.ranges)
      expect(all.without(offset, offset + length)).toEqual([]);
    const read = await decodeProfile(await encodeProfile(merged));
    expect(bytesOf(read.ranges)).toBe(bytesOf(merged.ranges));
  });

  it('of disks of different sizes are refused', () => {
    const small = profileOf([], { diskSize: GIB });
    expect(() => mergeProfiles([profileOf([]), small])).toThrow(/different sizes/);
  });
});

it('a picture shows where something is read, and how much', () => {
  const all = pictureOf([{ offset: 0, length: GIB, ms: 0 }], GIB);
  expect(all).toEqual(Array.from({ length: 4 }, () => '█'.repeat(64)));
  const [first, ...rest] = pictureOf([{ offset: 0, length: 4096, ms: 0 }], GIB);
  expect(first).toBe(`░${' '.repeat(63)}`);
  expect(rest.join('').trim()).toBe('');
});

it('the limits leave room for what is recorded', () => {
  expect(RANGES_MAX).toBeGreaterThan(40_000);
});
