/** Internal snapshots, in the words and fields of `qemu-img`. */
import type { SnapshotInfo } from '../../api/image.ts';
import { formatSize } from './sizes.ts';

/** The table of `qemu-img info` and `qemu-img snapshot -l`; nothing where there are none. */
export function snapshotList(snapshots: readonly SnapshotInfo[]): string[] {
  if (snapshots.length === 0) return [];
  return [
    'Snapshot list:',
    snapshotRow('ID', 'TAG', 'VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT'),
    ...snapshots.map(humanSnapshot),
  ];
}

export function jsonSnapshot(snapshot: SnapshotInfo): Record<string, string | number | undefined> {
  return {
    icount: snapshot.icount,
    'vm-clock-nsec': snapshot.clockNanoseconds,
    name: snapshot.name,
    'date-sec': snapshot.dateSeconds,
    'date-nsec': snapshot.dateNanoseconds,
    'vm-clock-sec': snapshot.clockSeconds,
    id: snapshot.id,
    'vm-state-size': snapshot.stateSize,
  };
}

function humanSnapshot({
  id,
  name,
  stateSize,
  dateSeconds,
  clockSeconds,
  clockNanoseconds,
  icount,
}: SnapshotInfo): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  const made = new Date(dateSeconds * 1000);
  const date = `${made.getFullYear()}-${two(made.getMonth() + 1)}-${two(made.getDate())} ${two(made.getHours())}:${two(made.getMinutes())}:${two(made.getSeconds())}`;
  const clock = `${two(Math.floor(clockSeconds / 3600))}:${two(Math.floor(clockSeconds / 60) % 60)}:${two(clockSeconds % 60)}.${String(Math.floor(clockNanoseconds / 1e6)).padStart(3, '0')}`;
  return snapshotRow(
    id,
    name,
    formatSize(stateSize),
    date,
    clock,
    icount === undefined ? '' : String(icount),
  );
}

/** The columns of `qemu-img info`. */
function snapshotRow(
  id: string,
  name: string,
  size: string,
  date: string,
  clock: string,
  icount: string,
): string {
  const right = [size.padStart(8), date.padStart(20), clock.padStart(13), icount.padStart(11)];
  return [id.padEnd(10), name.padEnd(17), ...right].join('').trimEnd();
}
