/** What many cases need: overlays of their own, disks to try things on, and events to wait for. */
import type { Disk, DiskEvent, Extent } from '../../hosts/api/disk.ts';
import type { JobTarget } from '../../hosts/api/disk-events.ts';
import { DISK_EVENTS } from '../../hosts/api/disk-events.ts';
import type { StreamInfo } from '../../hosts/api/job.ts';
import type { CreateOptions } from '../../hosts/api/open.ts';
import type { Adapter } from './adapter.ts';
import { equal, sameBytes } from './assert.ts';
import { BASE_SIZE } from './content.ts';

/** Where an overlay can be made that no other case knows. */
export function newOverlay(host: Adapter): string {
  return host.overlay(`${crypto.randomUUID()}.qcow2`);
}

/** A new disk over a fixture. */
export function diskOver(
  host: Adapter,
  fixture: string,
  options: Partial<CreateOptions> = {},
): Promise<Disk> {
  return host.createDisk({
    overlay: newOverlay(host),
    base: `${host.server}/${fixture}`,
    ...options,
  });
}

/** Runs `body` on a disk and closes it, also when something failed. */
export async function using<T>(
  opening: Promise<Disk>,
  body: (disk: Disk) => Promise<T>,
): Promise<T> {
  const disk = await opening;
  try {
    return await body(disk);
  } finally {
    await disk.close();
  }
}

/** The disk reads as `content`, to its end. */
export async function reads(disk: Disk, content: Uint8Array, what = 'the disk'): Promise<void> {
  equal(disk.size, content.length, `${what}: size`);
  sameBytes(await disk.read(0, disk.size), content, what);
}

export async function extents(extents: AsyncIterable<Extent>): Promise<Extent[]> {
  const list: Extent[] = [];
  for await (const extent of extents) list.push(extent);
  return list;
}

/** `extents` in short: `0+65536 data@0`. */
export async function layout(source: AsyncIterable<Extent>): Promise<string[]> {
  return (await extents(source)).map(
    ({ offset, length, state, depth }) => `${offset}+${length} ${state}@${depth}`,
  );
}

/** The detail of the next event of this type. */
export function nextEvent(target: JobTarget<StreamInfo>, type: DiskEvent): Promise<StreamInfo> {
  return new Promise((resolve) => {
    target.addEventListener(type, ({ detail }) => resolve(detail), { once: true });
  });
}

/** All events of a disk from now on, by type and in order. */
export function record(target: JobTarget<StreamInfo>): { type: string; detail: StreamInfo }[] {
  const events: { type: string; detail: StreamInfo }[] = [];
  for (const type of DISK_EVENTS)
    target.addEventListener(type, ({ detail }) => events.push({ type, detail }));
  return events;
}

/** Nothing of the base is missing: the overlay stands alone. */
export async function standsAlone(disk: Disk): Promise<void> {
  equal(await disk.remaining(), 0, 'bytes that remain');
  equal((await disk.images()).length, 1, 'images of the chain');
}

/** A whole-disk job's info. */
export function wholeInfo(info: StreamInfo, status: number, remaining: number): void {
  equal(
    [info.status, info.remaining, info.offset, info.length],
    [status, remaining, 0, BASE_SIZE],
    'status, remaining, offset and length',
  );
}
