/** The internal snapshots and persistent bitmaps of an open image, as the engine tells them. */
import {
  BITMAP_FLAGS,
  BITMAP_GRANULARITY_BITS,
  BITMAP_NAME_BYTES,
  KIND_SNAPSHOTS,
  SNAPSHOT_AT,
  SNAPSHOT_CLOCK_NANOSECONDS,
  SNAPSHOT_CLOCK_SECONDS,
  SNAPSHOT_DATE_NANOSECONDS,
  SNAPSHOT_DATE_SECONDS,
  SNAPSHOT_ICOUNT,
  SNAPSHOT_ID_BYTES,
  SNAPSHOT_NAME_BYTES,
  SNAPSHOT_NUMBERS,
  SNAPSHOT_STATE_BYTES,
  SNAPSHOT_TEXT_BYTES,
  SNAPSHOTS_OF_BITMAPS,
} from '../../../engine/protocol.ts';
import type { BitmapInfo, SnapshotInfo } from '../../api/image.ts';
import type { Engine } from './engine.ts';

/** Bytes of the numbers of an answer, which texts follow. */
const NUMBERS_BYTES = SNAPSHOT_NUMBERS * 8;
const ANSWER_BYTES = NUMBERS_BYTES + SNAPSHOT_TEXT_BYTES;

/** A snapshot, and where its entry stands in the image's file. */
export interface SnapshotEntry {
  snapshot: SnapshotInfo;
  at: number;
}

/** The `count` snapshots of image 0. */
export async function snapshotsOf(engine: Engine, count: number): Promise<SnapshotEntry[]> {
  const snapshots: SnapshotEntry[] = [];
  const into = new Uint8Array(ANSWER_BYTES);
  for (let at = 0; snapshots.length < count; ) {
    at = await engine.request(KIND_SNAPSHOTS, at, 0, 0, { into });
    const numbers = new Float64Array(into.buffer, 0, SNAPSHOT_NUMBERS);
    const idBytes = numbers[SNAPSHOT_ID_BYTES];
    const icount = numbers[SNAPSHOT_ICOUNT];
    const text = (from: number, bytes: number): string =>
      new TextDecoder().decode(into.subarray(NUMBERS_BYTES + from, NUMBERS_BYTES + from + bytes));
    const snapshot = {
      id: text(0, idBytes),
      name: text(idBytes, numbers[SNAPSHOT_NAME_BYTES]),
      dateSeconds: numbers[SNAPSHOT_DATE_SECONDS],
      dateNanoseconds: numbers[SNAPSHOT_DATE_NANOSECONDS],
      clockSeconds: numbers[SNAPSHOT_CLOCK_SECONDS],
      clockNanoseconds: numbers[SNAPSHOT_CLOCK_NANOSECONDS],
      stateSize: numbers[SNAPSHOT_STATE_BYTES],
      icount: icount < 0 ? undefined : icount,
    };
    snapshots.push({ snapshot, at: numbers[SNAPSHOT_AT] });
  }
  return snapshots;
}

/** The flags that QEMU names, by their bits. */
const FLAG_NAMES = ['in-use', 'auto'] as const;

/** The `count` persistent bitmaps of image 0. */
export async function bitmapsOf(engine: Engine, count: number): Promise<BitmapInfo[]> {
  const bitmaps: BitmapInfo[] = [];
  const into = new Uint8Array(ANSWER_BYTES);
  for (let at = 0; bitmaps.length < count; ) {
    at = await engine.request(KIND_SNAPSHOTS, at, 0, SNAPSHOTS_OF_BITMAPS, { into });
    const numbers = new Float64Array(into.buffer, 0, SNAPSHOT_NUMBERS);
    const nameEnd = NUMBERS_BYTES + numbers[BITMAP_NAME_BYTES];
    bitmaps.push({
      name: new TextDecoder().decode(into.subarray(NUMBERS_BYTES, nameEnd)),
      granularity: 2 ** numbers[BITMAP_GRANULARITY_BITS],
      flags: FLAG_NAMES.filter((_, bit) => numbers[BITMAP_FLAGS] & (1 << bit)),
    });
  }
  return bitmaps;
}
