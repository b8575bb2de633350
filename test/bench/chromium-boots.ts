/** What a user of v86 in Chromium waits for, over lines of different lengths. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Guest } from '../guest/guest.ts';
import { run } from '../support/run.ts';
import type { Figures } from './chromium.ts';
import { inChromium } from './chromium.ts';
import type { DiskKind } from './console-page/main.ts';
import type { Line } from './lines.ts';
import type { BenchRow } from './table.ts';
import { middle } from './table.ts';

/** What v86's own readers can boot from, and ours; a disk in memory is what all are measured by. */
const RAW: readonly DiskKind[] = ['memory', 'async', 'chunks', 'first', 'second', 'profile'];
const COMPRESSED: readonly DiskKind[] = ['first', 'second', 'profile'];
const COMPRESSED_FILE = 'bench-boot.qcow2';
const NAMES: Readonly<Record<DiskKind, string>> = {
  memory: 'a disk in memory',
  async: "v86's own reader",
  chunks: "v86's own reader, by the MiB",
  first: 'Millrace, streaming',
  second: 'Millrace, second visit',
  profile: 'Millrace with a profile, streaming',
};

/** The longest that a boot may take, by one from memory: without a profile, and with one. */
export interface Goals {
  first?: number;
  profile: number;
}

type Boots = ReadonlyMap<DiskKind, Figures>;

export interface BootLine {
  goals: Goals;
  /** Whether a picture shows it: one of all lines would be too large for a first page. */
  isPictured?: boolean;
}

/** Boots of each kind over each line, raw and as compressed qcow2. */
export async function chromiumBoots(
  guest: Guest,
  lines: readonly (Line & BootLine)[],
): Promise<BenchRow[]> {
  const compressed = join(guest.dir, COMPRESSED_FILE);
  await run('qemu-img', ['convert', '-c', '-O', 'qcow2', guest.path, compressed]);
  const all: { line: Line & BootLine; format: string; boots: Boots }[] = [];
  try {
    for (const line of lines)
      await inChromium(guest, line, async (bootEach) => {
        all.push({ line, format: 'raw', boots: await bootEach(guest.file, RAW) });
        all.push({ line, format: 'qcow2', boots: await bootEach(COMPRESSED_FILE, COMPRESSED) });
      });
  } finally {
    await rm(compressed);
  }
  // No line is in the way of what is in memory: its boots over all of them are the same work.
  const inMemory = all.flatMap(({ boots }) => boots.get('memory')?.seconds ?? []);
  const memory = middle(inMemory);
  return all.flatMap(({ line, format, boots }) =>
    rowsOf(`${line.name}, ${format}, v86`, boots, memory, line),
  );
}

function rowsOf(
  group: string,
  boots: Boots,
  memorySeconds: number,
  { goals, isPictured }: BootLine,
): BenchRow[] {
  return [...boots].flatMap(([kind, figures]): BenchRow[] => {
    const name = NAMES[kind];
    const { firstSeconds, seconds, workSeconds, aloneSeconds, requests, bytes } = figures;
    const ratio = seconds / memorySeconds;
    const isOurs = kind === 'first' || kind === 'second' || kind === 'profile';
    const rows: BenchRow[] = [
      { case: `${group}: ${name}, to the prompt`, value: seconds, unit: 's' },
      {
        case: '  by that of a disk in memory',
        value: ratio,
        unit: '',
        goalMax: kind === 'second' ? goals.profile : goals[kind as keyof Goals],
        bar: isPictured ? { group, name, ratio, isOurs } : undefined,
      },
      { case: '  to its first word', value: firstSeconds, unit: 's' },
      { case: '  to its first work', value: workSeconds, unit: 's' },
    ];
    if (aloneSeconds !== undefined)
      rows.push({ case: '  to standing alone', value: aloneSeconds, unit: 's' });
    return [
      ...rows,
      { case: '  requests', value: requests, unit: '' },
      { case: '  fetched', value: bytes / 1024 ** 2, unit: 'MiB' },
    ];
  });
}
