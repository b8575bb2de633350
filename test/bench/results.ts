/**
 * Runs kept: the rows of each case as a table, and their ratios as pictures, in `results/`; a case
 * that is run again replaces its own.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../support/run.ts';
import type { Bar } from './bars.ts';
import { drawBars } from './bars.ts';
import type { BenchRow } from './table.ts';
import { cells, HEAD } from './table.ts';

const FOLDER = fileURLToPath(new URL('results/', import.meta.url));
const TABLE = 'figures.md';
/** Begins the part of a case. */
const PART = /^(?=## `npm run bench -- )/m;

/** The rows of each case that was run. */
export type Results = ReadonlyMap<string, readonly BenchRow[]>;

/** Writes the table and the pictures, and returns their folder. */
export async function keepResults(results: Results): Promise<string> {
  await mkdir(FOLDER, { recursive: true });
  const before = await readFile(join(FOLDER, TABLE), 'utf8').catch(() => '');
  const table = tableOf(results, await machine(), before);
  await writeFile(join(FOLDER, TABLE), table);
  const label = "The peers' times by ours: more than 1 means that Millrace is quicker";
  await writeFile(join(FOLDER, 'figures.svg'), drawBars(label, barsOf(table)));
  for (const [name, rows] of results) {
    const bars = barsOfCase(rows);
    if (bars.length > 0)
      await writeFile(join(FOLDER, `${name}.svg`), drawBars('Times: less is quicker', bars));
  }
  return FOLDER;
}

async function machine(): Promise<string> {
  const commit = (await run('git', ['rev-parse', '--short', 'HEAD'])).stdout.trim();
  const qemu = /version ([\d.]+)/.exec((await run('qemu-img', ['--version'])).stdout)?.[1];
  const day = new Date().toISOString().slice(0, 10);
  return `Commit ${commit}, ${day}, ${cpus().length} cores, Node ${process.versions.node}, QEMU ${qemu}.`;
}

/** Markdown, a part for each case; those of cases that were not run stay as they are. */
export function tableOf(results: Results, where: string, before = ''): string {
  const parts = new Map(before.split(PART).map((part) => [part.split('\n')[0], part.trim()]));
  for (const [name, rows] of results) {
    const title = `## \`npm run bench -- ${name}\``;
    const lines = [HEAD, HEAD.map(() => '---'), ...rows.map(cells)];
    const table = lines.map((line) => `| ${line.map(escaped).join(' | ')} |`).join('\n');
    const picture = barsOfCase(rows).length > 0 ? `![As a picture](${name}.svg)\n\n` : '';
    parts.set(title, `${title}\n\n${where}\n\n${picture}${table}`);
  }
  const kept = [...parts].filter(([title]) => title.startsWith('## ')).map(([, part]) => part);
  const head =
    '# Figures\n\nWritten by `npm run bench -- --keep`: of each case the last run that was kept.\n';
  return `${head}\n![The ratios](figures.svg)\n\n${kept.join('\n\n')}\n`;
}

/** What is indented in the table on a terminal is of the row above. */
function escaped(text: string): string {
  return text.replace(/^ {2}/, '↳ ').trim().replaceAll('|', '\\|');
}

/** A bar for each peer in the table. */
export function barsOf(table: string): Bar[] {
  const rows = table.split('\n').map((line) => line.split(/(?<!\\)\|/).map((cell) => cell.trim()));
  return rows.flatMap(([, group, , peer, ratio, , , verdict]): Bar[] => {
    if (!(Number(ratio) > 0)) return [];
    const name = peer.slice(0, peer.lastIndexOf(':'));
    const note = verdict === 'missed' ? '(goal missed)' : undefined;
    return [{ group, name, ratio: Number(ratio), isOurs: true, note }];
  });
}

/** What a case's rows show in a picture of their own. */
function barsOfCase(rows: readonly BenchRow[]): Bar[] {
  return rows.flatMap((row) => ('bar' in row && row.bar ? [row.bar] : []));
}
