/** The internal snapshots and persistent bitmaps of an open image, as the engine tells them. */
import type { BitmapInfo, SnapshotInfo } from '../../api/disk.ts';
import type { Engine } from './engine.ts';
import { Kind } from './engine.ts';

/** Numbers of an answer; see engine/requests/snapshots.ts. Then come id and name, of 65,535 bytes at most each. */
const NUMBERS = 8;
const ANSWER_BYTES = NUMBERS * 8 + 2 * 65535;

/** The `count` snapshots of image 0. */
export async function snapshotsOf(engine: Engine, count: number): Promise<SnapshotInfo[]> {
  const snapshots: SnapshotInfo[] = [];
  const into = new Uint8Array(ANSWER_BYTES);
  for (let at = 0; snapshots.length < count; ) {
    at = await engine.request(Kind.snapshots, at, 0, 0, { into });
    const [
      dateSeconds,
      dateNanoseconds,
      clockSeconds,
      clockNanoseconds,
      stateSize,
      icount,
      idBytes,
      nameBytes,
    ] = new Float64Array(into.buffer, 0, NUMBERS);
    const text = (from: number, bytes: number): string =>
      new TextDecoder().decode(into.subarray(NUMBERS * 8 + from, NUMBERS * 8 + from + bytes));
    snapshots.push({
      id: text(0, idBytes),
      name: text(idBytes, nameBytes),
      dateSeconds,
      dateNanoseconds,
      clockSeconds,
      clockNanoseconds,
      stateSize,
      icount: icount < 0 ? undefined : icount,
    });
  }
  return snapshots;
}

/** Argument of a request for a bitmap; see engine/requests/snapshots.ts. */
const OF_BITMAPS = 1;
/** The flags that QEMU names, by their bits. */
const BITMAP_FLAGS = ['in-use', 'auto'] as const;

/** The `count` persistent bitmaps of image 0. */
export async function bitmapsOf(engine: Engine, count: number): Promise<BitmapInfo[]> {
  const bitmaps: BitmapInfo[] = [];
  const into = new Uint8Array(ANSWER_BYTES);
  for (let at = 0; bitmaps.length < count; ) {
    at = await engine.request(Kind.snapshots, at, 0, OF_BITMAPS, { into });
    const [flags, granularityBits, nameBytes] = new Float64Array(into.buffer, 0, NUMBERS);
    bitmaps.push({
      name: new TextDecoder().decode(into.subarray(NUMBERS * 8, NUMBERS * 8 + nameBytes)),
      granularity: 2 ** granularityBits,
      flags: BITMAP_FLAGS.filter((_, bit) => flags & (1 << bit)),
    });
  }
  return bitmaps;
}
