/** Replaying a profile: what a guest waits for with a right one, a wrong one, and a hostile one. */
import { beforeAll, describe, expect, it } from 'vitest';
import { MillraceError } from '../../hosts/api/errors.ts';
import { JobStatus } from '../../hosts/api/job.ts';
import type { Profile } from '../../hosts/profiles/format.ts';
import { bytesOf, decodeProfile, encodeProfile } from '../../hosts/profiles/format.ts';
import { CLUSTER, KIB, Machine, MIB, makeBoot } from './boot.ts';

const SIZE: number = 64 * MIB;
const STEPS = makeBoot(1, 120, SIZE);

/** A machine, and the profile of its boot. */
async function machineAndProfile() {
  const machine = new Machine(SIZE);
  const { recorded, ms, waits } = await machine.boot(STEPS, { record: true });
  return { machine, data: recorded!.data, recorded: recorded!, ms, waits };
}

/** The profile of another image, as far as anyone can tell of the same size and name. */
async function wrongProfile(data: Uint8Array, reads = 120): Promise<Uint8Array> {
  const ranges = makeBoot(99, reads, SIZE / 4).map(({ offset }, i) => ({
    offset: Math.floor(offset / CLUSTER) * 4 * CLUSTER,
    length: CLUSTER,
    ms: i,
  }));
  const once = [...new Map(ranges.map((range) => [range.offset, range])).values()];
  return encodeProfile({ ...(await decodeProfile(data)), ranges: once });
}

async function decodeBytes(data: Uint8Array): Promise<number> {
  return bytesOf((await decodeProfile(data)).ranges);
}

function profileOf(ranges: [offset: number, length: number][], more: Partial<Profile> = {}) {
  return encodeProfile({
    base: { size: SIZE },
    diskSize: SIZE,
    seconds: 1,
    boots: 1,
    ranges: ranges.map(([offset, length], i) => ({ offset, length, ms: i * 100 })),
    ...more,
  });
}

// What inflates a profile is loaded in real time, which the clock of the tests does not know.
beforeAll(async () => void (await decodeProfile(await profileOf([[0, 4096]]))));

describe('a profile that is right', () => {
  it('leaves little to wait for, and fetches little more than the guest reads', async () => {
    const { machine, data, ms, waits } = await machineAndProfile();
    const without = await machine.boot(STEPS);
    expect(without.ms).toBeCloseTo(ms);
    expect(waits).toBeGreaterThan(90);
    const booted = await machine.boot(STEPS, { before: (disk) => disk.replay(data) });
    expect(booted.replayed).toMatchObject({ outcome: 'done' });
    expect(booted.waits).toBeLessThan(waits / 8);
    const read = without.line.sent.reduce((sum, { length }) => sum + length, 0);
    const fetched = booted.line.sent.reduce((sum, { length }) => sum + length, 0);
    expect(fetched / read).toBeLessThan(1.13);
    expect(booted.line.sent.length).toBeLessThan(without.line.sent.length);
  });

  it('fetches in its order, a few requests at a time, and never twice', async () => {
    const { machine, data } = await machineAndProfile();
    const booted = await machine.boot([], {
      before: (disk) => disk.replay(data),
      after: (disk, machine) => machine.until(disk.replay()),
    });
    const { ranges } = await decodeProfile(data);
    const order = booted.line.sent.map(({ offset }) =>
      ranges.findIndex((range) => range.offset + range.length > offset),
    );
    expect(order[0]).toBeLessThanOrEqual(1);
    expect(booted.line.sent.every(({ ahead, background }) => ahead && background)).toBe(true);
    const seen = new Set<number>();
    for (const { offset, length } of booted.line.sent) {
      for (let at = offset; at < offset + length; at += CLUSTER) {
        expect(seen.has(at)).toBe(false);
        seen.add(at);
      }
    }
    // Each is sent before what the profile tells a window later.
    const firsts = booted.line.sent.map(({ offset, length }) =>
      Math.min(
        ...ranges.map((range, i) =>
          range.offset < offset + length && offset < range.offset + range.length ? i : Infinity,
        ),
      ),
    );
    const sorted = firsts.toSorted((a, b) => a - b);
    expect(firsts).toEqual(sorted);
  });

  it('is overtaken by a guest that wants something at once', async () => {
    const machine = new Machine(SIZE);
    const ranges = Array.from({ length: 200 }, (_, i): [number, number] => [
      i * 4 * CLUSTER,
      CLUSTER,
    ]);
    const data = await profileOf(ranges);
    const last = 199 * 4 * CLUSTER;
    const steps = [{ offset: last, length: 4096, thinkMs: 100 }];
    const booted = await machine.boot(steps, { before: (disk) => disk.replay(data) });
    // A round trip, its own bytes, and what was on the line before it.
    expect(booted.ms).toBeLessThan(100 + 50 + 60);
    const own = booted.line.sent.findIndex(({ offset }) => offset === last);
    expect(booted.line.sent[own]).toMatchObject({ ahead: false, background: false });
    expect(own).toBeLessThan(booted.line.sent.length - 1);
  });

  it('goes before the job, which goes on when it is done', async () => {
    const { machine, data } = await machineAndProfile();
    const booted = await machine.boot([], {
      before: (disk) => disk.replay(data),
      after: async (disk, machine) => {
        await machine.until(disk.stream());
        expect(await disk.remaining()).toBe(0);
      },
    });
    const { sent } = booted.line;
    const lastAhead = sent.findLastIndex(({ ahead }) => ahead);
    const firstJobs = sent.findIndex(({ ahead }) => !ahead);
    expect(lastAhead).toBeGreaterThan(10);
    expect(firstJobs).toBeGreaterThan(lastAhead);
    expect(booted.replayed).toMatchObject({ outcome: 'done' });
  });
});

describe('a guest that leaves its profile', () => {
  it('has the line to itself after a few misses, and takes hardly longer than without', async () => {
    const { machine, data } = await machineAndProfile();
    const line = { bitsPerSecond: 50e6 };
    const { ms } = await machine.boot(STEPS, line);
    // Of every fourth place, and so of little that the guest reads.
    const wrong = await wrongProfile(data, 900);
    const booted = await machine.boot(STEPS, { ...line, before: (disk) => disk.replay(wrong) });
    expect(booted.replayed).toMatchObject({ outcome: 'yielded' });
    expect(booted.ms / ms).toBeLessThan(1.05);
    expect(booted.replayed!.asked).toBeLessThan((await decodeBytes(wrong)) / 2);
  });

  it.each([
    [20, 1e9],
    [100, 50e6],
  ])('the same over %i ms and %i bits a second', async (roundTripMs, bitsPerSecond) => {
    const { machine, data } = await machineAndProfile();
    const line = { roundTripMs, bitsPerSecond };
    const without = await machine.boot(STEPS, line);
    const right = await machine.boot(STEPS, { ...line, before: (disk) => disk.replay(data) });
    const other = await wrongProfile(data);
    const wrong = await machine.boot(STEPS, { ...line, before: (disk) => disk.replay(other) });
    expect(right.waits).toBeLessThan(without.waits);
    expect(right.ms).toBeLessThan(without.ms / 2);
    expect(wrong.ms / without.ms).toBeLessThan(1.05);
  });

  it('finds it going on when it comes back', async () => {
    const machine = new Machine(SIZE);
    // The first half of the disk is in the profile; the guest begins in the other.
    const half = SIZE / 2;
    const count = 120;
    const data = await profileOf(
      Array.from({ length: count }, (_, i) => [i * 4 * CLUSTER, CLUSTER]),
    );
    const strays = makeBoot(5, 40, half).map((step) => ({ ...step, offset: step.offset + half }));
    const back = Array.from({ length: count }, (_, i) => ({
      offset: i * 4 * CLUSTER,
      length: 4096,
      thinkMs: 20,
    }));
    const booted = await machine.boot([...strays, ...back], {
      before: (disk) => disk.replay(data),
      after: (disk, machine) => machine.until(disk.replay()),
    });
    expect(booted.replayed).toMatchObject({ outcome: 'done' });
    // It yielded: much of it was fetched only after the guest had come back.
    const firstBack = booted.line.sent.findLastIndex(({ offset }) => offset >= half);
    expect(booted.line.sent.slice(firstBack).some(({ ahead }) => ahead)).toBe(true);
  });
});

describe('a profile that cannot be used', () => {
  it('of another base, or of an older one, is left alone, and told', async () => {
    const machine = new Machine(SIZE);
    const others = [
      await profileOf([[0, CLUSTER]], { diskSize: SIZE / 2 }),
      await profileOf([[0, CLUSTER]], { base: { size: SIZE - 512 } }),
    ];
    for (const data of others) {
      const booted = await machine.boot([], { before: (disk) => disk.replay(data) });
      expect(booted.replayed).toMatchObject({
        outcome: 'unusable',
        message: expect.stringMatching(/another base/),
      });
      expect(booted.line.sent).toEqual([]);
    }
  });

  it('that is none is an error of who gave it, and leaves no overlay', async () => {
    const machine = new Machine(SIZE);
    const create = { overlay: 'o', base: 'base.raw' };
    const failing = machine.runtime.create({ ...create, profile: new Uint8Array(100) });
    await expect(failing).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(machine.runtime.create({ ...create, profile: 'missing' })).rejects.toMatchObject({
      code: 'ENOENT',
    });
    await expect(machine.runtime.create({ ...create, profile: '' })).rejects.toMatchObject({
      code: 'EINVAL',
    });
    expect(machine.runtime.files.has('o')).toBe(false);
  });

  it.each([
    ['all of the disk, backwards', Array.from({ length: 64 }, (_, i) => [(63 - i) * MIB, MIB])],
    ['the last byte', [[SIZE - 512, 512]]],
    ['far too much', [[0, SIZE]]],
  ] as [string, [number, number][]][])(
    'made to do harm (%s) costs some bytes',
    async (_, ranges) => {
      const machine = new Machine(SIZE);
      const data = await profileOf(ranges);
      const booted = await machine.boot(STEPS.slice(0, 30), {
        before: (disk) => disk.replay(data),
      });
      expect(booted.replayed!.asked).toBeLessThanOrEqual(SIZE);
    },
  );

  it('gives up when the base fails again and again, and the guest is told by its own reads', async () => {
    const machine = new Machine(SIZE);
    machine.fails = ({ ahead }) =>
      ahead ? new MillraceError('EIO', 'the line is cut') : undefined;
    const data = await profileOf(Array.from({ length: 40 }, (_, i) => [i * MIB, CLUSTER]));
    const booted = await machine.boot(STEPS.slice(0, 5), { before: (disk) => disk.replay(data) });
    expect(booted.replayed).toMatchObject({
      outcome: 'failed',
      message: expect.stringMatching(/cut/),
    });
  });

  it('is not fetched into a disk that is only read, or keeps nothing', async () => {
    const machine = new Machine(SIZE);
    const data = await profileOf([[0, CLUSTER]]);
    const booted = await machine.boot([], {
      copyOnRead: false,
      before: (disk) => disk.replay(data),
    });
    expect(booted.replayed).toMatchObject({ outcome: 'unusable' });
  });
});

describe('the replay of a disk', () => {
  it('is one: asked again it tells of that, and another is refused', async () => {
    const machine = new Machine(SIZE);
    const data = await profileOf([[0, CLUSTER]]);
    await machine.boot([], {
      profile: data,
      before: async (disk) => {
        expect(disk.replay()).toBeInstanceOf(Promise);
        await expect(disk.replay(new URL('file:///other'))).rejects.toMatchObject({
          code: 'EBUSY',
        });
        return machine.until(disk.replay('auto'));
      },
    });
  });

  it('ends when the disk is closed', async () => {
    const machine = new Machine(SIZE);
    const data = await profileOf(Array.from({ length: 60 }, (_, i) => [i * MIB, CLUSTER]));
    const booted = await machine.boot([], { before: (disk) => disk.replay(data) });
    expect(booted.replayed).toMatchObject({ outcome: 'stopped' });
  });
});

describe('the order of a job', () => {
  it('is that of a profile, and then from the start to the end', async () => {
    const { machine, data } = await machineAndProfile();
    const booted = await machine.boot([], {
      after: async (disk, machine) => {
        await machine.until(disk.stream({ order: data }));
        expect(await disk.remaining()).toBe(0);
      },
    });
    const { ranges } = await decodeProfile(data);
    const sent = booted.line.sent.filter(({ length }) => length >= CLUSTER);
    const isTold = ({ offset, length }: { offset: number; length: number }): boolean =>
      ranges.some(
        (range) => range.offset < offset + length && offset < range.offset + range.length,
      );
    // As many copies as a disk has in flight may come in another order.
    expect(sent.slice(0, 60).every(isTold)).toBe(true);
    expect(sent.some((read) => !isTold(read))).toBe(true);
    const bytes = sent.reduce((sum, { length }) => sum + length, 0);
    expect(bytes).toBeLessThanOrEqual(SIZE + CLUSTER);
  });

  it('keeps to the range, the speed and the end of the job', async () => {
    const { machine, data } = await machineAndProfile();
    const range = { offset: 8 * MIB, length: 4 * MIB };
    await machine.boot([], {
      after: async (disk, machine) => {
        const begun = machine.runtime.clock.now();
        const info = await machine.until(disk.stream({ ...range, order: data, speed: 2 * MIB }));
        expect(machine.runtime.clock.now() - begun).toBeGreaterThan(1800);
        expect(info).toMatchObject({ status: JobStatus.COMPLETED, remaining: 0 });
        expect(await disk.remaining(range.offset, range.length)).toBe(0);
        expect(await disk.remaining()).toBe(SIZE - range.length);
      },
    });
  });

  it('can be paused, resumed and aborted within the profile', async () => {
    const { machine, data } = await machineAndProfile();
    await machine.boot([], {
      after: async (disk, machine) => {
        await disk.stream({ order: data, nonblock: true, speed: 4 * MIB });
        await machine.until(disk.pause());
        const { remaining } = await disk.info();
        await disk.resume();
        await disk.setSpeed(0);
        await machine.until(disk.read(SIZE - 4096, 4096));
        await machine.until(disk.abort());
        const info = await disk.info();
        expect(info).toMatchObject({ status: JobStatus.FAILED, reason: 'aborted' });
        expect(info.remaining).toBeLessThan(remaining);
        await machine.until(disk.stream({ order: data }));
        expect(await disk.remaining()).toBe(0);
      },
    });
  });

  it('comes upon an error as any job does, and fetches at the end what was passed over', async () => {
    const { machine, data } = await machineAndProfile();
    let failures = 3;
    machine.fails = () =>
      failures-- > 0 ? new MillraceError('EIO', 'the line is cut') : undefined;
    await machine.boot([], {
      after: async (disk, machine) => {
        const paused = new Promise((resolve) => disk.addEventListener('paused', resolve));
        await disk.stream({ order: data, nonblock: true, onError: 'stop' });
        await machine.until(paused);
        await machine.until(disk.pause());
        failures = 0;
        await disk.resume();
        const completed = new Promise((resolve) => disk.addEventListener('completed', resolve));
        await machine.until(completed);
        expect(await disk.remaining()).toBe(0);
      },
    });
  });

  it('is refused where the profile is of another base', async () => {
    const machine = new Machine(SIZE);
    const other = await profileOf([[0, 4 * KIB]], { base: { size: 1 } });
    await machine.boot([], {
      after: async (disk) => {
        await expect(disk.stream({ order: other })).rejects.toMatchObject({ code: 'EINVAL' });
        await expect(disk.stream({ order: 'missing' })).rejects.toMatchObject({ code: 'ENOENT' });
      },
    });
  });

  it('is from start to end where the disk has no profile of its own', async () => {
    const machine = new Machine(4 * MIB);
    const booted = await machine.boot([], {
      after: (disk, machine) => machine.until(disk.stream({ order: 'profile' })),
    });
    const offsets = booted.line.sent.map(({ offset }) => offset);
    expect(offsets).toEqual(offsets.toSorted((a, b) => a - b));
  });
});
