/** Which of the internal snapshots of an image is meant. */
import { FORMAT_QCOW2, IMAGE_FORMAT, IMAGE_SNAPSHOTS, OVERLAY } from '../../engine/protocol.ts';
import { MillraceError } from '../api/errors.ts';
import type { SnapshotChoice, SnapshotInfo } from '../api/image.ts';
import type { Engine } from './driver/engine.ts';
import { formatName } from './driver/formats.ts';
import { snapshotsOf } from './driver/snapshots.ts';

/**
 * Where the entry of the snapshot stands in the file of image 0, and what it is called.
 * @throws MillraceError `ENOENT` for one that is not there, `EUNSUPPORTED` where there can be none.
 */
export async function findSnapshot(
  engine: Engine,
  wanted: SnapshotChoice,
): Promise<{ at: number; label: string }> {
  const report = engine.imageReport(OVERLAY);
  const image = engine.name(OVERLAY);
  if (report[IMAGE_FORMAT] !== FORMAT_QCOW2)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${image} is ${formatName(report[IMAGE_FORMAT])} data: only qcow2 images have internal snapshots`,
    );
  const entries = await snapshotsOf(engine, report[IMAGE_SNAPSHOTS]);
  for (const isMeant of testsFor(wanted)) {
    const found = entries.find(({ snapshot }) => isMeant(snapshot));
    if (found) return { at: found.at, label: labelOf(wanted) };
  }
  throw new MillraceError(
    'ENOENT',
    `cannot find the snapshot ${labelOf(wanted)} in ${image}: 'millrace snapshot -l ${image}' lists what is there`,
  );
}

/** An id goes before the name of another, as in QEMU. */
function testsFor(wanted: SnapshotChoice): ((snapshot: SnapshotInfo) => boolean)[] {
  if (typeof wanted === 'string') return [({ id }) => id === wanted, ({ name }) => name === wanted];
  const { id = undefined, name = undefined } = wanted;
  if (id === undefined && name === undefined)
    throw new MillraceError('EINVAL', 'a snapshot is told by its id, its name, or both');
  return [
    (snapshot) =>
      (id === undefined || snapshot.id === id) && (name === undefined || snapshot.name === name),
  ];
}

function labelOf(wanted: SnapshotChoice): string {
  if (typeof wanted === 'string') return `'${wanted}'`;
  const { id, name } = wanted;
  return [id !== undefined && `of id '${id}'`, name !== undefined && `named '${name}'`]
    .filter(Boolean)
    .join(' ');
}

/** What is wrong with the image when it shows the snapshot may be right without. */
export function asOfSnapshot(error: unknown, label: string): unknown {
  if (!(error instanceof MillraceError)) return error;
  return new MillraceError(error.code, `the snapshot ${label}: ${error.message}`, {
    cause: error,
    offset: error.offset,
    reason: error.reason,
  });
}
