/**
 * A run kept: its rows as a table, and their ratios as pictures, in `results/`, each replaced by
 * the next run that is kept.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../support/run.ts';
import type { Bar } from './bars.ts';
import { drawBars } from './bars.ts';
import type { BenchRow } from './table.ts';
import { cells, HEAD, meetsGoal, ratioOf } from './table.ts';

const FOLDER = fileURLToPath(new URL('results/', import.meta.url));

/** The rows of each case that was run. */
export type Results = ReadonlyMap<string, readonly BenchRow[]>;

/** Writes the table and the picture, and returns their folder. */
export async function keepResults(results: Results): Promise<string> {
  await mkdir(FOLDER, { recursive: true });
  const where = await machine();
  await writeFile(join(FOLDER, 'figures.md'), tableOf(results, where));
  const label = "The peers' times by ours: more than 1 means that Millrace is quicker";
  await writeFile(join(FOLDER, 'figures.svg'), drawBars(label, barsOf(results)));
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

/** Markdown, a table for each case. */
export function tableOf(results: Results, where: string): string {
  const parts = [...results].map(([name, rows]) => {
    const lines = [HEAD, HEAD.map(() => '---'), ...rows.map(cells)];
    const table = lines.map((line) => `| ${line.map(escaped).join(' | ')} |`).join('\n');
    const picture = barsOfCase(rows).length > 0 ? `![As a picture](${name}.svg)\n\n` : '';
    return `## \`npm run bench -- ${name}\`\n\n${picture}${table}\n`;
  });
  const asked = [...results.keys()].join(' ');
  const head = `# Figures of one run\n\nWritten by \`npm run bench -- --keep ${asked}\`. ${where}\n`;
  return `${head}\n![The ratios](figures.svg)\n\n${parts.join('\n')}`;
}

/** What is indented in the table on a terminal is of the row above. */
function escaped(text: string): string {
  return text.replace(/^ {2}/, '↳ ').trim().replaceAll('|', '\\|');
}

/** A bar for each peer. */
export function barsOf(results: Results): Bar[] {
  return [...results.values()].flat().flatMap((row): Bar[] => {
    if ('value' in row) return [];
    const note = meetsGoal(row) === false ? '(goal missed)' : undefined;
    return [{ group: row.case, name: row.peer, ratio: ratioOf(row), isOurs: true, note }];
  });
}

/** What a case's rows show in a picture of their own. */
function barsOfCase(rows: readonly BenchRow[]): Bar[] {
  return rows.flatMap((row) => ('bar' in row && row.bar ? [row.bar] : []));
}
