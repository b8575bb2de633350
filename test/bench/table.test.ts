import { expect, it } from 'vitest';
import type { BenchRow } from './table.ts';
import { formatTable, meetsGoal } from './table.ts';

const rows: BenchRow[] = [
  { case: 'local raw', ourSeconds: 0.5, peer: 'block-stream job', peerSeconds: 2.5, goalRatio: 4 },
  { case: 'local raw', ourSeconds: 0.5, peer: 'curl', peerSeconds: 0.25, goalRatio: 1 / 1.05 },
  { case: 'local raw', ourSeconds: 0.123456, peer: 'copy loop', peerSeconds: 1234.5 },
  { case: 'first read', value: 4, unit: 'requests', goalMax: 4 },
  { case: 'first read', value: 513, unit: 'KiB', goalMax: 512 },
];

it('judges times by their ratio and quantities by their limit', () => {
  expect(rows.map(meetsGoal)).toEqual([true, false, undefined, true, false]);
});

it('prints a line a result', () => {
  expect(formatTable(rows)).toBe(
    [
      'case        ours        peer                     ratio    goal',
      '----------  ----------  -----------------------  -------  --------------  ------',
      'local raw   0.5 s       block-stream job: 2.5 s  5.00     at least 4      met',
      'local raw   0.5 s       curl: 0.25 s             0.50     at least 0.952  missed',
      'local raw   0.123 s     copy loop: 1235 s        9999.51',
      'first read  4 requests                                    at most 4       met',
      'first read  513 KiB                                       at most 512     missed',
    ].join('\n'),
  );
});
