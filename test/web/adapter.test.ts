/**
 * A Millrace disk as v86's hard disk, without a page: the order of requests, failures, saved
 * states, and a real guest.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { BlockSource } from '../../hosts/api/block.ts';
import type { Disk } from '../../hosts/api/disk.ts';
import type { V86Disk } from '../../hosts/faces/v86/index.ts';
import { attachDisk } from '../../hosts/faces/v86/index.ts';
import { Pace } from '../../hosts/faces/v86/pace.ts';
import { createDisk, MillraceError, openDisk, openFileSource } from '../../hosts/node/index.ts';
import { guestPeers, makeGuest } from '../guest/guest.ts';
import { Machine } from '../guest/machine.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';

const SIZE = 4 * 1024 * 1024;
/** Not in the part of the disk that is fetched before the machine starts. */
const FAR = SIZE / 2;
const BASE_READ_MS = 5;
const GUEST_MS_MAX = 240_000;
/** Writes a sector without end, by the BIOS. */
const WRITER = [
  0x31,
  0xc0,
  0x8e,
  0xc0, // es = 0
  0xb8,
  0x01,
  0x03,
  0xbb,
  0x00,
  0x7c,
  0xb9,
  0x02,
  0x00,
  0xba,
  0x80,
  0x00,
  0xcd,
  0x13, // write this sector to the second one
  0xeb,
  0xf0, // again
];
const sector = (value: number): Uint8Array => new Uint8Array(512).fill(value);
const read = (hda: V86Disk, at: number): Promise<number> =>
  new Promise((done) => hda.get(at, 512, (data) => done(data[0])));
const write = (hda: V86Disk, at: number, value: number): Promise<void> =>
  new Promise((done) => hda.set(at, sector(value), done));
const once = (target: EventTarget, type: string): Promise<CustomEvent> =>
  new Promise((done) =>
    target.addEventListener(type, (event) => done(event as CustomEvent), { once: true }),
  );

let folder: string;
let disk: Disk;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-v86-'));
  disk = await createDisk({ overlay: join(folder, 'vm.qcow2'), size: SIZE });
});
afterEach(async () => {
  await disk.close();
  await rm(folder, { recursive: true });
});

/** The disk with some of its calls replaced. */
function altered(change: Partial<Pick<Disk, 'read' | 'write' | 'flush'>>): Disk {
  const { size } = disk;
  return {
    size,
    read: disk.read.bind(disk),
    write: disk.write.bind(disk),
    flush: disk.flush.bind(disk),
    ...change,
  } as Disk;
}

function holdUp(): [Promise<void>, () => void] {
  let release = (): void => {};
  return [new Promise<void>((resolve) => (release = resolve)), () => release()];
}

describe('a disk for v86', () => {
  it('gives the first sector at once, as the guest last wrote it, and nothing that is not here yet', async () => {
    await disk.write(0, sector(7));
    const hda = await attachDisk(disk);
    expect(hda.get_from_cache(0, 512)?.[0]).toBe(7);
    await write(hda, 0, 8);
    expect(hda.get_from_cache(0, 512)?.[0]).toBe(8);
    expect(hda.get_from_cache(FAR, 512)).toBeUndefined();
    await hda.close();
  });

  it('has the profile beside its base fetched ahead, unless the page wants none', async () => {
    const asked: string[] = [];
    const base: BlockSource = {
      size: SIZE,
      read: (_, into) => void into.fill(0),
      close() {},
      async beside(ending) {
        asked.push(ending);
        throw new MillraceError('ENOENT', 'there is none');
      },
    };
    for (const [name, profile, times] of [
      ['a.qcow2', undefined, 1],
      ['b.qcow2', 'none', 1],
      ['c.qcow2', 'auto', 2],
    ] as const) {
      const overlay = join(folder, name);
      const over = await createDisk({ overlay, base, recordBase: 'base', profile });
      const hda = await attachDisk(over);
      await over.replay();
      expect(asked).toEqual(Array.from({ length: times }, () => '.profile'));
      await hda.close();
      await over.close();
    }
  });

  it('copies what is written before v86 uses its buffer again', async () => {
    const hda = await attachDisk(disk);
    const data = sector(1);
    const written = new Promise<void>((done) => hda.set(4096, data, done));
    data.fill(2);
    await written;
    expect(await read(hda, 4096)).toBe(1);
    await hda.close();
  });

  it('lets a read see the write before it, though that takes its time', async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    const hda = await attachDisk(
      altered({ write: (offset, data) => held.then(() => disk.write(offset, data)) }),
    );
    void write(hda, FAR, 3);
    const after = read(hda, FAR);
    expect(await read(hda, 8192)).toBe(0);
    release();
    expect(await after).toBe(3);
    void write(hda, FAR, 4);
    expect(hda.get_from_cache(FAR, 512)?.[0]).toBe(4);
    await hda.close();
  });

  it('answers at once what is near a read before, and fetches what comes next', async () => {
    const asked: number[] = [];
    const hda = await attachDisk(
      altered({ read: (offset, length) => (asked.push(offset), disk.read(offset, length)) }),
    );
    const atOnce = (at: number): boolean => {
      let answered = false;
      hda.get(at, 1024, () => (answered = true));
      return answered;
    };
    expect([atOnce(0), atOnce(FAR)]).toEqual([true, false]);
    await read(hda, FAR);
    expect([atOnce(FAR), atOnce(FAR + 1024), atOnce(FAR + 3072)]).toEqual([true, true, true]);
    // What follows comes without being asked for, and nothing is fetched twice.
    const next = FAR + 256 * 1024;
    while (!hda.get_from_cache(next, 512)) await new Promise((resolve) => setTimeout(resolve));
    for (let at = FAR; at < next; at += 128 * 1024) expect(atOnce(at)).toBe(true);
    expect(new Set(asked).size).toBe(asked.length);
    await hda.close();
  });

  it('forgets what it has asked for when the guest writes there meanwhile', async () => {
    let first = true;
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    const hold = async (offset: number): Promise<void> => {
      if (offset < FAR || !first) return;
      first = false;
      await held;
    };
    // What is read before the write is told after it.
    const hda = await attachDisk(
      altered({
        read: (offset, length) =>
          disk.read(offset, length).then(async (bytes) => (await hold(offset), bytes)),
      }),
    );
    const early = read(hda, FAR);
    while (first) await new Promise((resolve) => setTimeout(resolve));
    await write(hda, FAR + 512, 9);
    const late = read(hda, FAR + 512);
    release();
    expect([await early, await late]).toEqual([0, 9]);
    expect(await read(hda, FAR + 512)).toBe(9);
    await hda.close();
  });

  it('tells a failure once, tries again, and tells that it has passed', async () => {
    let failures = 2;
    const hda = await attachDisk(
      altered({
        read: (offset, length) =>
          offset === FAR && failures-- > 0
            ? Promise.reject(new MillraceError('EIO', 'no line'))
            : disk.read(offset, length),
      }),
    );
    const errors: unknown[] = [];
    hda.addEventListener('error', (event) => errors.push((event as CustomEvent).detail.message));
    const recovered = once(hda, 'recovered');
    expect(await read(hda, FAR)).toBe(0);
    await recovered;
    expect(errors).toEqual(['no line']);
    await hda.close();
  });

  it('brings writes to last by itself, though v86 never asks for it, and tries again', async () => {
    let flushes = 0;
    const hda = await attachDisk(
      altered({
        flush: () =>
          flushes++ > 0 ? disk.flush() : Promise.reject(new MillraceError('ENOSPC', 'full')),
      }),
    );
    const error = once(hda, 'error');
    const flushed = once(hda, 'flushed');
    await write(hda, 4096, 1);
    expect((await error).detail.code).toBe('ENOSPC');
    expect(hda.unsaved).toBe(true);
    await flushed;
    expect([hda.unsaved, flushes]).toEqual([false, 2]);
    await hda.close();
  });

  it('brings writes to last while a read waits for its base', async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    const hda = await attachDisk(
      altered({
        read: (offset, length) =>
          offset < FAR ? disk.read(offset, length) : held.then(() => disk.read(offset, length)),
      }),
    );
    const waiting = read(hda, FAR);
    const flushed = once(hda, 'flushed');
    await write(hda, 4096, 1);
    await flushed;
    release();
    expect(await waiting).toBe(0);
    await hda.close();
  });

  it('does not call saved what could not be stored when it is closed, and tries that once more', async () => {
    let full = true;
    const write = (offset: number, data: Uint8Array): Promise<void> =>
      full ? Promise.reject(new MillraceError('ENOSPC', 'no room')) : disk.write(offset, data);
    const [first, second] = [
      await attachDisk(altered({ write })),
      await attachDisk(altered({ write })),
    ];
    const told: string[] = [];
    for (const type of ['unsaved', 'flushed', 'recovered'])
      first.addEventListener(type, () => told.push(type));
    const failed = [once(first, 'error'), once(second, 'error')];
    for (const hda of [first, second]) hda.set(4096, sector(1), () => {});
    expect(told).toEqual(['unsaved']);
    await Promise.all(failed);
    await expect(first.close()).rejects.toMatchObject({
      code: 'ENOSPC',
      message: 'not all that the guest wrote has been stored: no room',
    });
    await expect(first.close()).rejects.toMatchObject({ code: 'ENOSPC' });
    expect([told, first.unsaved]).toEqual([['unsaved'], true]);
    full = false;
    await second.close();
    expect((await disk.read(4096, 1))[0]).toBe(1);
  });

  it('is closed while a read waits for its base, whose end then is nobody’s', async () => {
    let fail = (_: Error): void => {};
    const held = new Promise<never>((_, reject) => (fail = reject));
    const hda = await attachDisk(
      altered({ read: (offset, length) => (offset < FAR ? disk.read(offset, length) : held) }),
    );
    const told: string[] = [];
    hda.addEventListener('error', () => told.push('error'));
    hda.get(FAR, 512, () => told.push('read'));
    await write(hda, 4096, 1);
    await hda.close();
    fail(new MillraceError('ECLOSED', 'the disk has been closed'));
    await hda.flush();
    expect(told).toEqual([]);
  });

  it('reads more at once than it keeps', async () => {
    const large = 40 * 1024 * 1024;
    await disk.resize(large);
    await disk.write(large - 512, sector(5));
    let bytes = 0;
    const hda = await attachDisk(
      altered({
        read: (offset, length) =>
          (bytes += length) < 3 * large
            ? disk.read(offset, length)
            : Promise.reject(new Error('read over and over')),
      }),
    );
    // The most that a disk of 48-bit addresses is asked for: 65536 sectors.
    const data = await new Promise<Uint8Array>((done) =>
      hda.get(large - 32 * 1024 * 1024, 32 * 1024 * 1024, done),
    );
    expect([data.length, data.at(-512), data.at(-513)]).toEqual([32 * 1024 * 1024, 5, 0]);
    await hda.close();
  });

  it('takes no more when a guest that nothing stops has written more than can be kept, and stores what it took', async () => {
    const [held, release] = holdUp();
    const hda = await attachDisk(
      altered({ write: (offset, data) => held.then(() => disk.write(offset, data)) }),
    );
    const error = once(hda, 'error');
    let taken = 0;
    const writes = 260;
    for (let i = 0; i < writes; i++)
      hda.set(FAR, new Uint8Array(1024 * 1024).fill(i + 1), () => taken++);
    expect((await error).detail).toMatchObject({
      code: 'EIO',
      message: expect.stringContaining("'pace' stops the machine"),
    });
    let answered = false;
    hda.get(0, 512, () => (answered = true));
    release();
    await expect(hda.close()).rejects.toMatchObject({
      code: 'EIO',
      message: expect.stringContaining('not all that the guest wrote'),
    });
    expect([taken, answered]).toEqual([257, false]);
    expect((await disk.read(FAR, 1))[0]).toBe(1);
  });

  it('stops a machine whose request takes long, and lets it go on when all that took long has ended', async () => {
    vi.useFakeTimers();
    try {
      const calls: string[] = [];
      let running = true;
      const machine = {
        is_running: () => running,
        run: async () => void calls.push(((running = true), 'run')),
        stop: async () => void calls.push(((running = false), 'stop')),
      };
      const pace = new Pace();
      pace.of(machine);
      for (let i = 0; i < 100; i++) {
        const quick = pace.begin();
        await vi.advanceTimersByTimeAsync(900);
        pace.end(quick);
      }
      expect(calls).toEqual([]);
      const slow = [pace.begin(), pace.begin(512)];
      await vi.advanceTimersByTimeAsync(9_000);
      const late = pace.begin();
      expect(calls).toEqual([]);
      await vi.advanceTimersByTimeAsync(2_000);
      expect(calls).toEqual(['stop']);
      pace.end(slow[0]);
      await vi.advanceTimersByTimeAsync(1);
      expect(calls).toEqual(['stop']);
      pace.end(slow[1]);
      await vi.advanceTimersByTimeAsync(1);
      expect(calls).toEqual(['stop', 'run']);
      pace.end(late);
      expect(vi.getTimerCount()).toBe(0);
      // One that the page has stopped itself is not started here.
      running = false;
      const again = pace.begin();
      await vi.advanceTimersByTimeAsync(11_000);
      pace.end(again);
      await vi.advanceTimersByTimeAsync(1);
      expect(calls).toEqual(['stop', 'run']);
    } finally {
      vi.useRealTimers();
    }
  });

  it('goes back to the state that is restored, and refuses one that it cannot go back to', async () => {
    const hda = await attachDisk(disk);
    await write(hda, 0, 1);
    await write(hda, 4096, 1);
    const first = hda.get_state();
    await write(hda, 0, 2);
    await write(hda, 4096, 2);
    const second = hda.get_state();
    await write(hda, 4096, 3);
    hda.set_state(second);
    expect([await read(hda, 0), await read(hda, 4096)]).toEqual([2, 2]);
    await write(hda, 4096, 4);
    hda.set_state(first);
    expect([await read(hda, 0), await read(hda, 4096), hda.get_from_cache(0, 512)?.[0]]).toEqual([
      1, 1, 1,
    ]);
    expect(() => hda.set_state(second)).toThrow(/written to since/);
    expect(() => hda.set_state([512, first[1]])).toThrow(/of a disk of 512 bytes/);
    await hda.close();
    const later = await attachDisk(disk);
    later.set_state(first);
    await later.close();
  });
});

describeWithPeer(['seabios'], 'a BIOS that writes without DMA', () => {
  it('is stopped while its disk cannot follow, and goes on when it can', async () => {
    await disk.write(
      0,
      Uint8Array.from(
        { length: 512 },
        (_, at) => WRITER[at] ?? (at === 510 ? 0x55 : at === 511 ? 0xaa : 0),
      ),
    );
    const [held, release] = holdUp();
    const hda = await attachDisk(
      altered({ write: (offset, data) => held.then(() => disk.write(offset, data)) }),
    );
    let written = 0;
    const set = hda.set.bind(hda);
    hda.set = (...request) => (written++, set(...request));
    const machine = await Machine.start(hda, /never/);
    hda.pace(machine.emulator);
    const until = async (what: () => boolean): Promise<void> => {
      while (!what()) await new Promise((resolve) => setTimeout(resolve, 20));
    };
    await until(() => written > 0 && !machine.emulator.is_running());
    const most = written;
    // Not exact: it ends the slice of time that it is in.
    expect(most).toBeLessThan(2 * 4096);
    release();
    await until(() => written > most);
    hda.pace(undefined);
    await machine.stop();
    await hda.close();
  });
});

describeWithPeer([...guestPeers, 'seabios'], 'a Linux guest under Node', () => {
  it('boots from a slow base, writes, and goes back to a saved state', {
    timeout: GUEST_MS_MAX,
  }, async () => {
    const guest = await makeGuest();
    const file = await openFileSource(guest.path);
    const slow: BlockSource = {
      size: file.size,
      name: guest.path,
      async read(offset, into, hint) {
        await new Promise((resolve) => setTimeout(resolve, BASE_READ_MS));
        return file.read(offset, into, hint);
      },
      close: () => file.close(),
    };
    const overlay = join(folder, 'guest.qcow2');
    const vm = await createDisk({ overlay, base: slow });
    const hda = await attachDisk(vm);
    await vm.stream({ nonblock: true });
    const machine = await Machine.start(hda, guest.prompt);
    expect(await machine.untilPrompt()).toContain('GUEST-READY');
    const [here, known] = (
      await machine.run('md5sum /data/blob.bin; grep data/blob.bin /data/MD5SUMS')
    ).split('\n');
    expect(here.split(' ')[0]).toBe(known.split(' ')[0]);

    await machine.run('echo kept > /root/file; sync');
    await machine.emulator.stop();
    await hda.flush();
    const state = await machine.emulator.save_state();
    await machine.emulator.run();
    await machine.run('echo lost > /root/file; sync');
    await machine.emulator.stop();
    await machine.emulator.restore_state(state);
    await machine.emulator.run();
    expect(await machine.run('echo 3 > /proc/sys/vm/drop_caches; cat /root/file')).toBe('kept');
    await machine.stop();
    await hda.close();
    await vm.close();

    const again = await openDisk({ overlay, base: guest.path });
    expect((await again.check()).corruptions).toBe(0);
    await again.close();
  });
});
