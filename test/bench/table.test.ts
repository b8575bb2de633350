import { expect, it } from 'vitest';
import { barsOf, tableOf } from './results.ts';
import type { BenchRow } from './table.ts';
import { formatTable, meetsGoal } from './table.ts';

const rows: BenchRow[] = [
  {
    case: 'local raw',
    ours: [0.55, 0.5],
    peer: 'block-stream job',
    theirs: [2.5, 3],
    goalRatio: 4,
  },
  { case: 'local raw', ours: [0.5], peer: 'curl', theirs: [0.25], goalRatio: 1 / 1.05 },
  { case: 'local raw', ours: [0.123456], peer: 'copy loop', theirs: [1234.5] },
  { case: 'first read', value: 4, unit: 'requests', goalMax: 4 },
  { case: 'first read', value: [518, 513], unit: 'KiB', goalMax: 512 },
];

it('judges times by their ratio and quantities by their limit', () => {
  expect(rows.map(meetsGoal)).toEqual([true, false, undefined, true, false]);
});

it('prints a line a result', () => {
  expect(formatTable(rows)).toBe(
    [
      'case        ours        peer                     ratio    slowest run   goal',
      '----------  ----------  -----------------------  -------  ------------  --------------  ------',
      'local raw   0.5 s       block-stream job: 2.5 s  5.00     +10 %, +20 %  at least 4      met',
      'local raw   0.5 s       curl: 0.25 s             0.50                   at least 0.952  missed',
      'local raw   0.123 s     copy loop: 1235 s        9999.51',
      'first read  4 requests                                                  at most 4       met',
      'first read  513 KiB                                       +1 %          at most 512     missed',
    ].join('\n'),
  );
});

it('keeps them as a table of Markdown and bars, beside what was kept of other cases', () => {
  const before = tableOf(new Map([['links', [rows[1]]]]), 'There.');
  const table = tableOf(new Map([['local', rows]]), 'Here.', before);
  expect(table.split('\n').slice(0, 19)).toEqual([
    '# Figures',
    '',
    'Written by `npm run bench -- --keep`: of each case the last run that was kept.',
    '',
    '![The ratios](figures.svg)',
    '',
    '## `npm run bench -- links`',
    '',
    'There.',
    '',
    '| case | ours | peer | ratio | slowest run | goal |  |',
    '| --- | --- | --- | --- | --- | --- | --- |',
    '| local raw | 0.5 s | curl: 0.25 s | 0.50 |  | at least 0.952 | missed |',
    '',
    '## `npm run bench -- local`',
    '',
    'Here.',
    '',
    '| case | ours | peer | ratio | slowest run | goal |  |',
  ]);
  expect(tableOf(new Map([['local', rows]]), 'Here.', table)).toBe(table);
  expect(barsOf(table).map(({ name, ratio, note }) => [name, ratio.toFixed(1), note])).toEqual([
    ['curl', '0.5', '(goal missed)'],
    ['block-stream job', '5.0', undefined],
    ['curl', '0.5', '(goal missed)'],
    ['copy loop', '9999.5', undefined],
  ]);
});
