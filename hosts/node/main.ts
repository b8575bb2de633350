#!/usr/bin/env node
/**
 * The program `millrace` under Node. Its version is told without loading more than this: it is what
 * a program is asked for most often.
 */
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { EXIT_READER_GONE } from '../faces/cli/platform.ts';

const { version } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string };
const args = process.argv.slice(2);

if (args.length === 1 && /^(-V|--version)$/.test(args[0])) {
  process.stdout.on('error', () => process.exit(EXIT_READER_GONE));
  process.stdout.write(`${version}\n`);
} else {
  const { runProgram } = await import('./command-line.ts');
  await runProgram(version, args);
}
