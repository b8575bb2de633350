/**
 * The benchmarks' results as one plain table: each figure beside its peer's, the ratio of the two,
 * and what is aimed at.
 */

/** A time of ours against a peer's for the same work. */
export interface Comparison {
  case: string;
  ourSeconds: number;
  peer: string;
  peerSeconds: number;
  /**
   * The least that the peer's time divided by ours is to be; left out where nothing is promised.
   */
  goalRatio?: number;
}

/** A quantity of ours with an upper limit. */
export interface Limit {
  case: string;
  value: number;
  /** Such as `requests` or `MiB`. */
  unit: string;
  goalMax?: number;
}

export type BenchRow = Comparison | Limit;

/** How a row stands to its goal; undefined where it has none. */
export function meetsGoal(row: BenchRow): boolean | undefined {
  if ('value' in row) return row.goalMax === undefined ? undefined : row.value <= row.goalMax;
  return row.goalRatio === undefined
    ? undefined
    : row.peerSeconds / row.ourSeconds >= row.goalRatio;
}

const HEAD = ['case', 'ours', 'peer', 'ratio', 'goal', ''];

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

function cells(row: BenchRow): string[] {
  const met = meetsGoal(row);
  const verdict = met === undefined ? '' : met ? 'met' : 'missed';
  if ('value' in row) {
    const goal = row.goalMax === undefined ? '' : `at most ${round(row.goalMax)}`;
    return [row.case, `${round(row.value)} ${row.unit}`, '', '', goal, verdict];
  }
  const goal = row.goalRatio === undefined ? '' : `at least ${round(row.goalRatio)}`;
  const peer = `${row.peer}: ${round(row.peerSeconds)} s`;
  return [
    row.case,
    `${round(row.ourSeconds)} s`,
    peer,
    (row.peerSeconds / row.ourSeconds).toFixed(2),
    goal,
    verdict,
  ];
}

/** Three digits that mean something. */
function round(value: number): string {
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}
