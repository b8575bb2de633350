/**
 * `npm run bench`: Millrace beside its peers on the same images in one run, as ratios. Arguments
 * name the cases to run (default: all of them). What is measured lies in the folder for temporary
 * files: with TMPDIR on a memory file system the disk is left out.
 */
import { Argument } from 'commander';
import { tool } from '../support/tool.ts';
import { boots } from './boot.ts';
import { browserStreams } from './browser.ts';
import { consoleBoots } from './console.ts';
import { denoStreams } from './deno.ts';
import { edgeFirstRead } from './edge.ts';
import { embedded } from './embedded.ts';
import { publishedImages } from './formats.ts';
import { guestRequests } from './guest.ts';
import { nbdBases, nbdRequests } from './nbd.ts';
import { keepResults } from './results.ts';
import { firstRead, sizes } from './small.ts';
import { startups } from './startup.ts';
import { compressed, links, local } from './streams.ts';
import type { BenchRow } from './table.ts';
import { formatTable } from './table.ts';

const CASES: Record<string, () => Promise<BenchRow[]>> = {
  local,
  links,
  compressed,
  first: firstRead,
  guest: guestRequests,
  embedded,
  deno: denoStreams,
  browser: browserStreams,
  edge: edgeFirstRead,
  console: consoleBoots,
  formats: publishedImages,
  nbd: nbdRequests,
  'nbd-bases': nbdBases,
  boot: boots,
  size: sizes,
  startup: startups,
};

const names = Object.keys(CASES);
const command = tool(
  'bench',
  'Does the same work with Millrace and with its peers, and prints the ratios.',
)
  .option('--keep', 'write the table and a picture of it to test/bench/results')
  .addArgument(new Argument('[case...]', 'which cases').choices(names).default(names, 'all'))
  .parse();
const { keep } = command.opts<{ keep?: boolean }>();
const results = new Map<string, BenchRow[]>();
let folder: string | undefined;
for (const name of command.processedArgs[0] as string[]) {
  console.error(`${name} …`);
  const rows = await CASES[name]();
  results.set(name, rows);
  console.log(formatTable(rows));
  // What there is so far: a run of all takes more than an hour, and may be cut off.
  if (keep) folder = await keepResults(results);
}
if (folder !== undefined) console.error(`kept in ${folder}`);
