/** What `millrace info` tells of an image, for people: in the words of `qemu-img info`. */
import type { SnapshotInfo } from '../../api/image.ts';
import type { Detail, InfoReport } from './info-report.ts';
import { printable } from './platform.ts';
import { formatExactly, formatSize } from './sizes.ts';
import { snapshotList } from './snapshot-list.ts';

export function humanInfo(report: InfoReport, snapshots: SnapshotInfo[] = []): string {
  const backing = report['backing-filename'];
  const full = report['full-backing-filename'];
  const actual = report['actual-size'];
  const lines = [
    `image: ${report.filename}`,
    `file format: ${report.format}`,
    `virtual size: ${report['virtual-size'] === undefined ? 'not known before all of it has been read' : formatExactly(report['virtual-size'])}`,
    `disk size: ${actual === undefined ? 'unavailable' : formatSize(actual)}`,
  ];
  if (report.container !== undefined) lines.push(...humanContainer(report.container));
  if (report.encrypted) lines.push('encrypted: yes');
  if (report['cluster-size'] !== undefined) lines.push(`cluster_size: ${report['cluster-size']}`);
  if (report['dirty-flag']) lines.push('cleanly shut down: no');
  if (backing !== undefined)
    lines.push(`backing file: ${backing}${full === backing ? '' : ` (actual path: ${full})`}`);
  if (report['backing-filename-format'] !== undefined)
    lines.push(`backing file format: ${report['backing-filename-format']}`);
  if (backing !== undefined && report.remaining !== undefined)
    lines.push(`still in the backing file: ${formatExactly(report.remaining)}`);
  lines.push(...snapshotList(snapshots));
  if (report['format-specific'] !== undefined) {
    lines.push('Format specific information:');
    lines.push(...humanDetails(report['format-specific'].data, '    '));
  }
  return `${lines.map(printable).join('\n')}\n`;
}

function humanContainer({
  formats,
  member,
  size,
  access,
}: NonNullable<InfoReport['container']>): string[] {
  const bytes = size === undefined ? '' : `, ${formatExactly(size)}`;
  return [
    `container: ${formats.join(', in it ') || 'none'}${bytes}`,
    ...(member === undefined ? [] : [`member: ${member}`]),
    `access: ${access === 'random' ? 'random' : 'sequential (a read waits until all before it has come)'}`,
  ];
}

/** Each on a line of its own, what it is made of below it. */
function humanDetails(details: Record<string, Detail | undefined>, indent: string): string[] {
  return Object.entries(details).flatMap(([key, value]) => {
    if (value === undefined) return [];
    const name = `${indent}${key.replaceAll('-', ' ')}:`;
    if (typeof value !== 'object') return [`${name} ${value}`];
    const parts = Array.isArray(value)
      ? Object.fromEntries(value.map((part, index) => [`[${index}]`, part]))
      : value;
    return [name, ...humanDetails(parts, `${indent}    `)];
  });
}
