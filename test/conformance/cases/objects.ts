/** Overlays and bases that the caller brings as objects: a BlockFile, a BlockSource. */

import type { BlockFile, BlockSource } from '../../../hosts/api/block.ts';
import type { ErrorCode } from '../../../hosts/api/errors.ts';
import { MillraceError } from '../../../hosts/api/errors.ts';
import { JobStatus } from '../../../hosts/api/job.ts';
import type { Case } from '../adapter.ts';
import { equal, ok, rejects, sameBytes } from '../assert.ts';
import { baseContent, CLUSTER, guestData, KIB, MIB } from '../content.ts';
import { newOverlay, nextEvent, reads, standsAlone, using } from '../support.ts';

/** A base in memory. */
function sourceOf(
  bytes: Uint8Array,
  more: Partial<BlockSource> = {},
): BlockSource & { closed: number } {
  const source = {
    size: bytes.length,
    name: 'memory',
    closed: 0,
    async read(offset: number, into: Uint8Array): Promise<void> {
      into.set(bytes.subarray(offset, offset + into.length));
    },
    async close(): Promise<void> {
      source.closed++;
    },
    ...more,
  };
  return source;
}

/** An overlay in memory, of at most `room` bytes. */
class MemoryFile implements BlockFile {
  readonly name = 'an overlay in memory';
  bytes: Uint8Array = new Uint8Array(0);
  room = Infinity;
  flushes = 0;

  get size(): number {
    return this.bytes.length;
  }

  read(offset: number, into: Uint8Array): void {
    into.set(this.bytes.subarray(offset, offset + into.length));
  }

  write(offset: number, from: Uint8Array): void {
    if (offset + from.length > this.size) this.truncate(offset + from.length);
    this.bytes.set(from, offset);
  }

  flush(): void {
    this.flushes++;
  }

  truncate(size: number): void {
    if (size > this.room)
      throw new MillraceError('ENOSPC', `the overlay has room for ${this.room} bytes`);
    const bytes = new Uint8Array(size);
    bytes.set(this.bytes.subarray(0, size));
    this.bytes = bytes;
  }

  close(): void {}
}

export const objectCases: readonly Case[] = [
  {
    name: 'a base that is an object: read, streamed, and closed when it is not needed any more',
    async run(host) {
      const base = sourceOf(baseContent());
      await using(host.createDisk({ overlay: newOverlay(host), base }), async (disk) => {
        await reads(disk, baseContent());
        await disk.stream();
        await standsAlone(disk);
        equal(base.closed, 1, 'times closed');
        await reads(disk, baseContent(), 'streamed');
      });
      equal(base.closed, 1, 'times closed in the end');
    },
  },
  {
    name: 'an overlay that is an object: written, flushed, opened again',
    async run(host) {
      const overlay = new MemoryFile();
      await using(host.createDisk({ overlay, base: sourceOf(baseContent()) }), async (disk) => {
        await disk.write(1000, guestData(CLUSTER));
        const before = overlay.flushes;
        await disk.flush();
        ok(overlay.flushes > before, 'flush reaches the file');
      });
      equal(new TextDecoder().decode(overlay.bytes.subarray(0, 3)), 'QFI', 'magic');
      const content = baseContent();
      content.set(guestData(CLUSTER), 1000);
      await using(host.openDisk({ overlay, base: sourceOf(baseContent()) }), (disk) =>
        reads(disk, content),
      );
      await rejects(host.createDisk({ overlay, size: MIB }), 'EEXIST');
      await rejects(host.openDisk({ overlay, cache: 'unsafe' }), 'EINVAL', /path or name/);
    },
  },
  {
    name: 'what was flushed is there after a crash: the file as it was then opens and reads',
    async run(host) {
      const overlay = new MemoryFile();
      const disk = await host.createDisk({ overlay, base: sourceOf(baseContent()) });
      await disk.write(200_000, guestData(100_000));
      await disk.flush();
      const crashed = new MemoryFile();
      crashed.bytes = overlay.bytes.slice();
      await disk.close();
      await using(
        host.openDisk({ overlay: crashed, base: sourceOf(baseContent()) }),
        async (again) => {
          sameBytes(await again.read(200_000, 100_000), guestData(100_000), 'what was flushed');
          equal((await again.check()).corruptions, 0, 'corruptions');
        },
      );
    },
  },
  {
    name: 'a base of another identity is ECHANGED, one without a name is given one',
    async run(host) {
      const overlay = new MemoryFile();
      await using(
        host.createDisk({ overlay, base: sourceOf(baseContent(), { identity: 'one' }) }),
        async () => {},
      );
      await rejects(
        host.openDisk({ overlay, base: sourceOf(baseContent(), { identity: 'two' }) }),
        'ECHANGED',
        /one.*two/,
      );
      await rejects(
        host.openDisk({ overlay, base: sourceOf(baseContent().subarray(512)) }),
        'ECHANGED',
      );
      const nameless = sourceOf(baseContent(), { name: undefined });
      const unnamed = newOverlay(host);
      await using(host.createDisk({ overlay: unnamed, base: nameless }), async (disk) => {
        equal((await disk.images())[0].backingFile, 'object:unnamed', 'recorded base');
      });
      await rejects(host.openDisk({ overlay: unnamed }), 'ENOENT', /give it again/);
      await using(host.openDisk({ overlay: unnamed, base: nameless }), (disk) =>
        reads(disk, baseContent()),
      );
      await using(
        host.createDisk({ overlay: newOverlay(host), base: nameless, recordBase: 'disk.img' }),
        async (disk) => {
          equal((await disk.images())[0].backingFile, 'disk.img', 'recorded base');
        },
      );
    },
  },
  {
    name: 'a full overlay fails a write with ENOSPC, and goes on when there is room',
    async run(host) {
      const overlay = new MemoryFile();
      await using(host.createDisk({ overlay, size: 4 * MIB }), async (disk) => {
        overlay.room = 1.5 * MIB;
        await rejects(disk.write(0, guestData(2 * MIB)), 'ENOSPC', /room/);
        overlay.room = Infinity;
        await disk.write(0, guestData(2 * MIB));
        sameBytes(await disk.read(0, 2 * MIB), guestData(2 * MIB), 'data');
      });
    },
  },
  {
    name: 'enospc pauses a job on a full overlay until there is room',
    async run(host) {
      const overlay = new MemoryFile();
      await using(host.createDisk({ overlay, base: sourceOf(baseContent()) }), async (disk) => {
        overlay.room = 900 * KIB;
        const paused = nextEvent(disk, 'paused');
        await disk.stream({ nonblock: true, onError: 'enospc' });
        const told = await paused;
        equal(
          [told.status, told.paused, told.error?.code],
          [JobStatus.ACTIVE, true, 'ENOSPC'],
          'status, paused and code',
        );
        overlay.room = Infinity;
        const completed = nextEvent(disk, 'completed');
        await disk.resume();
        await completed;
        await standsAlone(disk);
        await reads(disk, baseContent());
      });
    },
  },
  {
    name: 'a failure of a file of the caller counts as its code, also one of the system or the browser',
    async run(host) {
      const failures: [Error, ErrorCode][] = [
        [Object.assign(new Error('no space'), { code: 'ENOSPC' }), 'ENOSPC'],
        [new DOMException('no room', 'QuotaExceededError'), 'ENOSPC'],
        [Object.assign(new Error('keep out'), { code: 'EACCES' }), 'EACCES'],
        [Object.assign(new Error('odd'), { code: 'ENOTHING' }), 'EIO'],
      ];
      for (const [error, code] of failures) {
        const base = sourceOf(baseContent(), {
          read: async (offset, into) => {
            if (offset + into.length > MIB) throw error;
            into.set(baseContent().subarray(offset, offset + into.length));
          },
        });
        await using(
          host.createDisk({ overlay: newOverlay(host), base, copyOnRead: false }),
          (disk) => rejects(disk.read(1500 * KIB, 100), code, new RegExp(error.message)),
        );
      }
    },
  },
  {
    name: 'an error that a source throws is told as it is; one of another kind is EIO with its message',
    async run(host) {
      let error: Error = new MillraceError('ETIMEDOUT', 'the tape robot is stuck');
      const base = sourceOf(baseContent(), {
        read: async (offset, into) => {
          if (offset + into.length > MIB) throw error;
          into.set(baseContent().subarray(offset, offset + into.length));
        },
      });
      await using(
        host.createDisk({ overlay: newOverlay(host), base, copyOnRead: false }),
        async (disk) => {
          await rejects(disk.read(1500 * KIB, 100), 'ETIMEDOUT', /tape robot/);
          error = new Error('out of tape');
          await rejects(disk.read(1500 * KIB, 100), 'EIO', /memory: out of tape/);
          sameBytes(await disk.read(0, 100), baseContent().subarray(0, 100), 'the rest');
        },
      );
    },
  },
];
