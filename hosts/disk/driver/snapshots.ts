/** The internal snapshots of an open image, as the engine tells them. */
import type { SnapshotInfo } from '../../api/disk.ts';
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
