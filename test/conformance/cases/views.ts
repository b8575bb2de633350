/** What every disk has on top of reading and writing: streams, blobs, blocks, signals, `using`. */
import type { Disk } from '../../../hosts/api/disk.ts';
import { JobStatus } from '../../../hosts/api/job.ts';
import type { Case } from '../adapter.ts';
import { equal, ok, rejects, sameBytes } from '../assert.ts';
import { BASE_SIZE, baseContent, CLUSTER, guestData, MIB } from '../content.ts';
import { diskOver, newOverlay, reads, using } from '../support.ts';

/** All bytes of a stream. */
async function gathered(stream: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  return new Uint8Array(await new Response(stream as BodyInit).arrayBuffer());
}

/** As the caller of `asyncDispose`, where the engine has the symbol. */
function dispose(disk: Disk): Promise<void> {
  const symbol = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose');
  return (disk as unknown as Record<symbol, () => Promise<void>>)[symbol]();
}

export const viewCases: readonly Case[] = [
  {
    name: 'a read fills the array it is given, and no other one',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        const into = new Uint8Array(5000);
        const got = await disk.read(60_000, 5000, { into });
        ok(got === into, 'it is what is returned');
        sameBytes(into, baseContent().subarray(60_000, 65_000), 'what it holds');
        await rejects(disk.read(0, 512, { into }), 'EINVAL', /into is a Uint8Array of 512 bytes/);
        await rejects(
          disk.read(0, 512, { int: into } as never),
          'EINVAL',
          /read has no option 'int': did you mean 'into'/,
        );
        await rejects(disk.read(BASE_SIZE, 5000, { into }), 'EINVAL');
      }),
  },
  {
    name: 'a read is given up by its signal, and leaves its array alone',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        const given = new AbortController();
        const into = new Uint8Array(CLUSTER).fill(9);
        const reading = disk.read(0, CLUSTER, { into, signal: given.signal });
        given.abort(new Error('enough'));
        await rejects(reading, 'ABORTED');
        await rejects(disk.read(0, CLUSTER, { signal: given.signal }), 'ABORTED');
        sameBytes(
          await disk.read(0, CLUSTER, { signal: new AbortController().signal }),
          baseContent().subarray(0, CLUSTER),
          'a later read',
        );
        sameBytes(into, new Uint8Array(CLUSTER).fill(9), 'the array');
      }),
  },
  {
    name: 'readable gives the disk, or a range of it, from start to end',
    run: (host) =>
      using(diskOver(host, 'base.qcow2'), async (disk) => {
        sameBytes(await gathered(disk.readable()), baseContent(), 'the disk');
        const [offset, length] = [99_999, BASE_SIZE - 100_000];
        sameBytes(
          await gathered(disk.readable({ offset, length })),
          baseContent().subarray(offset, offset + length),
          'a range',
        );
        equal((await gathered(disk.readable({ offset: BASE_SIZE }))).length, 0, 'nothing');
        await rejects(
          (async () => disk.readable({ offset: 1, length: BASE_SIZE }))(),
          'EINVAL',
          /not in the disk/,
        );
        const given = new AbortController();
        const stream = disk.readable({ signal: given.signal });
        given.abort();
        await rejects(stream.getReader().read(), 'ABORTED');
      }),
  },
  {
    name: 'writable writes a range, and not past its end',
    run: (host) =>
      using(host.createDisk({ overlay: newOverlay(host), size: 4 * MIB }), async (disk) => {
        const data = guestData(2 * MIB + 77);
        const source = new Blob([data as Uint8Array<ArrayBuffer>]).stream();
        await source.pipeTo(disk.writable({ offset: 1000 }));
        const content = new Uint8Array(4 * MIB);
        content.set(data, 1000);
        await reads(disk, content);
        const writer = disk.writable({ offset: 0, length: 10 }).getWriter();
        await writer.write(new Uint8Array(10).fill(1));
        await rejects(writer.write(new Uint8Array(1)), 'EINVAL', /the range ends at 10/);
      }),
  },
  {
    name: 'blob is a copy of a range',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        const blob = await disk.blob({ offset: 500, length: BASE_SIZE - 700 });
        const bytes = new Uint8Array(await blob.arrayBuffer());
        sameBytes(bytes, baseContent().subarray(500, BASE_SIZE - 200), 'the blob');
        const start = await disk.blob({ length: 512 }).then((blob) => blob.slice(0, 4));
        sameBytes(
          new Uint8Array(await start.arrayBuffer()),
          baseContent().subarray(0, 4),
          'a slice',
        );
      }),
  },
  {
    name: 'blocks give all that is not zeros, in order',
    run: (host) =>
      using(host.createDisk({ overlay: newOverlay(host), size: 8 * MIB }), async (disk) => {
        const data = guestData(3 * MIB);
        await disk.write(2 * MIB + CLUSTER, data);
        await disk.writeZeroes(7 * MIB, CLUSTER);
        const content = new Uint8Array(8 * MIB);
        let [end, bytes] = [0, 0];
        for await (const block of disk.blocks()) {
          ok(block.offset >= end && block.data.length <= MIB, 'in order, of up to a MiB');
          content.set(block.data, block.offset);
          end = block.offset + block.data.length;
          bytes += block.data.length;
        }
        equal(bytes, 3 * MIB, 'bytes in blocks');
        await reads(disk, content);
        const part: number[] = [];
        for await (const { offset } of disk.blocks({ offset: 4 * MIB, length: MIB }))
          part.push(offset);
        equal(part, [4 * MIB], 'blocks of a range');
      }),
  },
  {
    name: 'onProgress hears of a job until its end, and of no other one',
    run: (host) =>
      using(diskOver(host, 'base.raw'), async (disk) => {
        const told: number[] = [];
        const onProgress = ({ status, remaining }: { status: number; remaining: number }) =>
          void told.push(status === JobStatus.COMPLETED ? -1 : remaining);
        await disk.stream({ onProgress });
        equal(told.at(-1), -1, 'the last that is told');
        equal(told.filter((one) => one === -1).length, 1, 'ends');
        const length = told.length;
        await disk.stream();
        equal(told.length, length, 'what a later job tells');
      }),
  },
  {
    name: 'openDisk with create makes what is not there, and opens what is',
    async run(host) {
      const overlay = newOverlay(host);
      const open = () =>
        host.openDisk({ overlay, create: { base: `${host.server}/base.raw`, clusterSize: 4096 } });
      await using(open(), async (disk) => {
        equal(disk.clusterSize, 4096, 'cluster size');
        await disk.write(0, guestData(512));
      });
      const content = baseContent();
      content.set(guestData(512), 0);
      await using(open(), (disk) => reads(disk, content));
      await rejects(
        host.openDisk({ overlay: newOverlay(host), create: { siz: 512 } as never }),
        'EINVAL',
        /did you mean 'size'/,
      );
      await rejects(
        host.openDisk({ overlay, create: { size: 512 }, readOnly: true }),
        'EINVAL',
        /create or readOnly/,
      );
    },
  },
  {
    name: 'a disk that is disposed of is closed, and tells consoles what it is',
    async run(host) {
      const disk = await host.createDisk({ overlay: newOverlay(host), size: MIB });
      const shown = (disk as unknown as Record<symbol, () => string>)[
        Symbol.for('nodejs.util.inspect.custom')
      ]();
      ok(/^Disk \{ .*size: 1048576, clusterSize: 65536/.test(shown), shown);
      await dispose(disk);
      await rejects(disk.read(0, 512), 'ECLOSED');
    },
  },
];
