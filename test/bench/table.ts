/**
 * The benchmarks' results as one plain table: each figure beside its peer's, the ratio of the two,
 * and what is aimed at.
 */

import type { Bar } from './bars.ts';

/** Seconds of each run of one work: the least is what it takes when nothing else disturbs it. */
export type Runs = readonly number[];

/** A time of ours against a peer's for the same work. */
export interface Comparison {
  case: string;
  ours: Runs;
  peer: string;
  theirs: Runs;
  /**
   * The least that the peer's time divided by ours is to be; left out where nothing is promised.
   */
  goalRatio?: number;
}

/** A quantity of ours with an upper limit. */
export interface Limit {
  case: string;
  value: number | Runs;
  /** Such as `requests` or `MiB`. */
  unit: string;
  goalMax?: number;
  /** What shows it in a picture of its own case's rows. */
  bar?: Bar;
}

export type BenchRow = Comparison | Limit;

/** How a row stands to its goal; undefined where it has none. */
export function meetsGoal(row: BenchRow): boolean | undefined {
  if ('value' in row)
    return row.goalMax === undefined ? undefined : best(valuesOf(row)) <= row.goalMax;
  return row.goalRatio === undefined ? undefined : ratioOf(row) >= row.goalRatio;
}

/** The peer's time by ours: more than 1 means quicker. */
export function ratioOf({ ours, theirs }: Comparison): number {
  return best(theirs) / best(ours);
}

function valuesOf({ value }: Limit): Runs {
  return typeof value === 'number' ? [value] : value;
}

export function best(runs: Runs): number {
  return Math.min(...runs);
}

/** What is not the luckiest run, nor one that was disturbed. */
export function middle(runs: Runs): number {
  return runs.toSorted((one, other) => one - other)[runs.length >> 1];
}

/** By how much the slowest of several runs was over the quickest. */
function spread(runs: Runs): string {
  return runs.length < 2 ? '' : `+${((Math.max(...runs) / best(runs) - 1) * 100).toFixed(0)} %`;
}

export const HEAD: readonly string[] = ['case', 'ours', 'peer', 'ratio', 'slowest run', 'goal', ''];

/** The table as text, a line each. */
export function formatTable(rows: readonly BenchRow[]): string {
  const lines = [HEAD, ...rows.map(cells)];
  const widths = HEAD.map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  const text = lines.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column]))
      .join('  ')
      .trimEnd(),
  );
  return [
    text[0],
    widths
      .map((width) => '-'.repeat(width))
      .join('  ')
      .trimEnd(),
    ...text.slice(1),
  ].join('\n');
}

/** What a row has in each column of HEAD. */
export function cells(row: BenchRow): string[] {
  const met = meetsGoal(row);
  const verdict = met === undefined ? '' : met ? 'met' : 'missed';
  if ('value' in row) {
    const goal = row.goalMax === undefined ? '' : `at most ${round(row.goalMax)}`;
    const values = valuesOf(row);
    const value = `${round(best(values))} ${row.unit}`.trimEnd();
    return [row.case, value, '', '', spread(values), goal, verdict];
  }
  const goal = row.goalRatio === undefined ? '' : `at least ${round(row.goalRatio)}`;
  return [
    row.case,
    `${round(best(row.ours))} s`,
    `${row.peer}: ${round(best(row.theirs))} s`,
    ratioOf(row).toFixed(2),
    [spread(row.ours), spread(row.theirs)].filter((text) => text !== '').join(', '),
    goal,
    verdict,
  ];
}

/** Three digits that mean something. */
function round(value: number): string {
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}
