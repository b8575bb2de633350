/**
 * The console's benchmark: how long a Linux guest takes to its prompt in Chromium, from disks of
 * different kinds over one line.
 */
import { makeGuest } from '../guest/guest.ts';
import type { Figures } from './chromium.ts';
import { inChromium } from './chromium.ts';
import type { DiskKind } from './console-page/main.ts';
import type { BenchRow } from './table.ts';

const LINE = { name: '50 ms, 200 Mbit/s', roundTripMs: 50, bitsPerSecond: 200e6 };
const MIB = 1024 * 1024;
/**
 * Of each kind the quickest boot counts; the kinds take turns, so that what else the machine does
 * meets all of them.
 */
const RUNS = 3;
const KINDS: readonly DiskKind[] = ['memory', 'first', 'second', 'profile', 'async', 'chunks'];
/** Takes twice as long as the others, and no goal hangs on it: it boots once. */
const ONCE: DiskKind = 'async';
/**
 * How much longer than from memory a boot may take: on the first visit, and on the second, and on
 * the first with a boot profile.
 */
const FIRST_MAX = 1.15;
const SECOND_MAX = 1.05;
const PROFILE_MAX = 1.05;
/**
 * Of what v86's reader by the MiB lets the guest wait, ours is to let it wait less than this part.
 */
const WAIT_MAX = 0.5;

/** From the start of the page to the prompt, for each kind of disk, and what that cost. */
export async function consoleBoots(): Promise<BenchRow[]> {
  const guest = await makeGuest();
  return inChromium(guest, LINE, async (bootEach) => {
    const boots = new Map<DiskKind, Figures[]>(KINDS.map((kind) => [kind, []]));
    for (let run = 0; run < RUNS; run++) {
      const kinds = KINDS.filter((kind) => kind !== ONCE || run === 0);
      for (const [kind, figures] of await bootEach(guest.file, kinds))
        boots.get(kind)!.push(figures);
    }
    return rows(boots);
  });
}

function rows(boots: ReadonlyMap<DiskKind, readonly Figures[]>): BenchRow[] {
  const seconds = (kind: DiskKind): number[] => boots.get(kind)!.map(({ seconds }) => seconds);
  const of = (kind: DiskKind): Figures =>
    boots.get(kind)!.reduce((best, next) => (next.seconds < best.seconds ? next : best));
  const name = `boot in Chromium, ${LINE.name}`;
  const against = (
    kind: DiskKind,
    visit: string,
    peer: DiskKind,
    label: string,
    goalRatio?: number,
  ): BenchRow => ({
    case: `${name}: ${visit}`,
    ours: seconds(kind),
    peer: label,
    theirs: seconds(peer),
    goalRatio,
  });
  const costs = KINDS.flatMap((kind): BenchRow[] => [
    { case: `  ${kind}: requests`, value: of(kind).requests, unit: '' },
    { case: `  ${kind}: fetched`, value: of(kind).bytes / MIB, unit: 'MiB' },
    { case: `  ${kind}: the guest waited for its disk`, value: of(kind).waitSeconds, unit: 's' },
  ]);
  return [
    against('first', 'first visit', 'memory', 'from memory', 1 / FIRST_MAX),
    against('second', 'second visit', 'memory', 'from memory', 1 / SECOND_MAX),
    against(
      'profile',
      'first visit, with a boot profile',
      'memory',
      'from memory',
      1 / PROFILE_MAX,
    ),
    against('first', 'first visit', 'async', 'v86 async'),
    against('first', 'first visit', 'chunks', 'v86 async, chunks of 1 MiB'),
    {
      case: '  waiting for the disk, by that with chunks of 1 MiB',
      value: of('first').waitSeconds / of('chunks').waitSeconds,
      unit: '',
      goalMax: WAIT_MAX,
    },
    ...costs,
  ];
}
