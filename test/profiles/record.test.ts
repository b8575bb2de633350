/** Recording a boot: what is noted, when it ends, and what it says of waiting. */
import { describe, expect, it } from 'vitest';
import { estimateWaits } from '../../hosts/profiles/estimate.ts';
import { decodeProfile } from '../../hosts/profiles/format.ts';
import { planOf } from '../../hosts/profiles/plan.ts';
import { Recorder } from '../../hosts/profiles/recorder.ts';
import { VirtualClock } from '../support/virtual-clock.ts';
import { CLUSTER, KIB, Machine, MIB, makeBoot } from './boot.ts';

const SIZE: number = 64 * MIB;

function recorderAt(options = {}) {
  const clock = new VirtualClock();
  return { clock, recorder: new Recorder(clock, SIZE, options) };
}

describe('what is recorded', () => {
  it('is what is read for the first time, in its order, with times', () => {
    const { clock, recorder } = recorderAt();
    recorder.reading(5 * MIB, 4096);
    clock.advance(100);
    recorder.reading(1000, 10);
    recorder.reading(5 * MIB, 4096);
    clock.advance(50);
    recorder.reading(5 * MIB - 4096, 3 * 4096);
    expect(recorder.touches.map(({ offset, length, ms }) => [offset, length, ms])).toEqual([
      [5 * MIB, 4096, 0],
      [0, 4096, 100],
      [5 * MIB - 4096, 4096, 150],
      [5 * MIB + 4096, 4096, 150],
    ]);
    expect(recorder.reads).toBe(4);
    expect(recorder.seconds).toBe(0.15);
  });

  it('is of the base: what the guest wrote before is not, nor what lies behind its end', () => {
    const { recorder } = recorderAt();
    recorder.wrote(MIB + 100, 8192);
    recorder.reading(MIB, 16 * KIB);
    recorder.reading(SIZE - 4096, 64 * KIB);
    recorder.reading(SIZE + MIB, 4096);
    expect(recorder.touches.map(({ offset, length }) => [offset, length])).toEqual([
      [MIB, 4096],
      [MIB + 8192, 8192],
      [SIZE - 4096, 4096],
    ]);
  });

  it('is bounded', () => {
    const { recorder } = recorderAt();
    for (let i = 0; i < 40_000; i++) recorder.reading((i * 8192) % SIZE, 1);
    expect(recorder.touches.length).toBeLessThan(40_000);
    const writer = recorderAt().recorder;
    writer.reading(0, 1);
    for (let i = 0; i < 70_000; i++) writer.wrote(i * 8192, 4096);
    expect(writer.ended).toBe('full');
  });
});

describe('a recording ends', () => {
  it('when it is told to', () => {
    const { recorder } = recorderAt();
    recorder.reading(0, 512);
    recorder.end('told');
    recorder.reading(MIB, 512);
    expect(recorder.touches).toHaveLength(1);
    expect(recorder.ended).toBe('told');
  });

  it('after its time, from the first read on', async () => {
    const { clock, recorder } = recorderAt({ mostMs: 1000 });
    clock.advance(5000);
    recorder.reading(0, 512);
    let over = false;
    void recorder.whenEnded().then(() => (over = true));
    clock.advance(999);
    recorder.reading(MIB, 512);
    await Promise.resolve();
    expect(over).toBe(false);
    clock.advance(1);
    await Promise.resolve();
    expect([over, recorder.ended]).toEqual([true, 'time']);
  });

  it('when the guest has been quiet, and not before it has begun', async () => {
    const { clock, recorder } = recorderAt({ quietMs: 3000 });
    const ended = recorder.whenEnded();
    clock.advance(60_000);
    expect(recorder.ended).toBeUndefined();
    for (let i = 0; i < 5; i++) {
      recorder.reading(i * MIB, 512);
      clock.advance(2900);
    }
    // What it has read before does not keep it going.
    recorder.reading(0, 512);
    expect(recorder.ended).toBeUndefined();
    clock.advance(100);
    await ended;
    expect(recorder.ended).toBe('quiet');
    recorder.reading(50 * MIB, 512);
    expect(recorder.touches).toHaveLength(5);
  });
});

describe('the profile of a disk', () => {
  it('says what the boot read, and for how long it waits with it and without', async () => {
    const machine = new Machine(SIZE);
    const steps = makeBoot(3, 100, SIZE);
    const { recorded, waits } = await machine.boot(steps, { record: true });
    const profile = await decodeProfile(recorded!.data);
    expect(profile).toMatchObject({ diskSize: SIZE, boots: 1, base: { size: SIZE } });
    expect(recorded).toMatchObject({ reads: 100, waits, ended: 'told' });
    expect(recorded!.bytes).toBeLessThanOrEqual(steps.reduce((sum, { length }) => sum + length, 0));
    for (const { offset, length } of steps) {
      const covers = profile.ranges.some(
        (range) => range.offset <= offset && offset < range.offset + range.length && length > 0,
      );
      expect(covers).toBe(true);
    }
    const { without, with: withIt } = recorded!.estimate;
    expect(withIt).toBeLessThan(without / 4);
    // What it says is what happens, as far as a line is what it takes it for.
    const thinkMs = steps.reduce((sum, step) => sum + step.thinkMs, 0);
    const alone = await machine.boot(steps);
    expect(without).toBeGreaterThan(((alone.ms - thinkMs) / 1000) * 0.9);
    expect(without).toBeLessThan(((alone.ms - thinkMs) / 1000) * 1.1);
    const beside = await machine.boot(steps, { before: (disk) => disk.replay(recorded!.data) });
    expect(Math.abs(withIt - (beside.ms - thinkMs) / 1000)).toBeLessThan(0.4);
  });

  it('goes on for all of its time where that is said, however quiet the guest is', async () => {
    const machine = new Machine(4 * MIB);
    const steps = [0, 1, 2].map((place) => ({ offset: place * MIB, length: 512, thinkMs: 50_000 }));
    const long = await machine.boot(steps, { record: { seconds: 3600 } });
    expect(long.recorded).toMatchObject({ ranges: 3, ended: 'told' });
    const quiet = await machine.boot(steps, { record: true });
    expect(quiet.recorded).toMatchObject({ ranges: 1, ended: 'quiet' });
    const timed = await machine.boot(steps, { record: { seconds: 60 } });
    expect(timed.recorded).toMatchObject({ ranges: 2, ended: 'time' });
  });

  it('is the same when it is asked for again, and is not there where nothing was recorded', async () => {
    const machine = new Machine(SIZE);
    await machine.boot(makeBoot(3, 5, SIZE), {
      record: { seconds: 60, quiet: 5 },
      after: async (disk) => {
        const first = await disk.profile();
        expect(await disk.profile({ wait: true })).toBe(first);
      },
    });
    await machine.boot([], {
      after: (disk) => expect(disk.profile()).rejects.toMatchObject({ code: 'ENOENT' }),
    });
    await machine.boot([], {
      after: async (disk) => {
        await expect(disk.profile()).rejects.toMatchObject({ code: 'ENOENT' });
      },
    });
    machine.line = undefined;
    for (const record of [{ seconds: 0 }, { quiet: Number.NaN }, { minutes: 1 } as object]) {
      const opening = machine.runtime.create({ overlay: 'x', base: 'base.raw', record });
      await expect(opening).rejects.toMatchObject({ code: 'EINVAL' });
    }
  });

  it('is of the boot also where the overlay had all of it before', async () => {
    const machine = new Machine(4 * MIB);
    const steps = [{ offset: MIB, length: 4096, thinkMs: 1 }];
    const { recorded } = await machine.boot(steps, {
      record: true,
      before: (disk) => machine.until(disk.read(MIB, 4096)),
    });
    expect(recorded).toMatchObject({ ranges: 1, bytes: 4096 });
    machine.line = undefined;
    const opened = { overlay: 'overlay.qcow2', base: 'base.raw', record: true };
    const disk = await machine.runtime.open(opened);
    await machine.until(disk.read(MIB, 4096));
    expect(await disk.profile()).toMatchObject({ ranges: 1, waits: 0 });
    await disk.close();
  });
});

it('waits that are estimated: reads beside one another wait together', () => {
  const touch = (offset: number, ms: number, endMs: number) => ({
    offset,
    length: 4096,
    ms,
    endMs,
    waited: true,
  });
  const line = { roundTripMs: 50, bitsPerSecond: 8e9 };
  const estimate = (touches: ReturnType<typeof touch>[]) =>
    estimateWaits(
      touches,
      planOf(touches, { size: SIZE, cluster: CLUSTER, most: MIB }),
      line,
      CLUSTER,
    );
  const one = estimate([touch(0, 0, 5), touch(10 * MIB, 5, 10), touch(20 * MIB, 10, 15)]);
  expect(one.without).toBeCloseTo(150 - 15 + 15 * 0 - 50 + 0, -2);
  const together = estimate([touch(MIB, 0, 5), touch(10 * MIB, 0, 5), touch(20 * MIB, 0, 5)]);
  expect(together.without).toBeLessThan(60);
  expect(together.with).toBeLessThanOrEqual(together.without);
});
