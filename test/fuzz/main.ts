/** `npm run fuzz`: hostile images and servers; `npm run fuzz -- -h` tells the options. */
import { runHostileClients } from '../nbd/hostile-clients.ts';
import { runPowerCut } from '../nbd/power-cut.ts';
import { loadEngine } from '../simulator/simulate.ts';
import { tool, whole } from '../support/tool.ts';
import { runCase } from './case.ts';
import { makeContainerFixtures, runContainerCase } from './container-case.ts';
import { foreignImages, runFormatCase } from './format-case.ts';
import { runServerCases } from './server-case.ts';

const IMAGES_DEFAULT = 100_000;
const SERVERS_DEFAULT = 1000;
const NBD_DEFAULT = 1000;
const CONTAINERS_DEFAULT = 10_000;
const FORMATS_DEFAULT = 10_000;
/** How often a run says how far it is. */
const PROGRESS_MS = 10_000;
/** Cases of servers mostly wait. */
const SERVER_LANES = 8;

interface Options {
  seed?: number;
  cases?: number;
  servers?: boolean;
  nbd?: boolean;
  containers?: boolean;
  formats?: boolean;
  keep?: boolean;
  engine?: string;
}

const options = tool(
  'fuzz',
  'Opens and uses images that were damaged, or made to do harm; with --servers, reads from servers that lie, stall and reset; with --nbd, serves clients that do harm, and loses power under others; with --containers, reads compressed files and archives that were damaged; with --formats, images of other programs.',
)
  .option(
    '--seed <n>',
    'the first case (default: a fresh one); alone, it is replayed, and what happened printed',
    whole,
  )
  .option(
    '--cases <n>',
    `how many (default: ${IMAGES_DEFAULT} images, ${SERVERS_DEFAULT} servers, ${NBD_DEFAULT} of NBD, ${CONTAINERS_DEFAULT} containers, ${FORMATS_DEFAULT} formats)`,
    whole,
  )
  .option('--servers', 'servers in place of images')
  .option('--nbd', 'clients of the NBD server in place of images')
  .option('--containers', 'compressed files and archives in place of images')
  .option('--formats', 'VMDK, VHD, VHDX, VDI, QED and Parallels in place of qcow2')
  .option('--keep', 'go on after a failure')
  .option('--engine <path>', 'another engine.wasm, for images')
  .parse()
  .opts<Options>();
const first = options.seed ?? Date.now() % 1_000_000_000;
/** What is attacked, how often unless that is told, and how. */
const KINDS = {
  images: { fallback: IMAGES_DEFAULT, fuzz: async () => fuzzImages() },
  servers: { fallback: SERVERS_DEFAULT, fuzz: fuzzServers },
  nbd: { fallback: NBD_DEFAULT, fuzz: fuzzNbd },
  containers: { fallback: CONTAINERS_DEFAULT, fuzz: fuzzContainers },
  formats: { fallback: FORMATS_DEFAULT, fuzz: fuzzFormats },
} as const;
const kind =
  (['servers', 'nbd', 'containers', 'formats'] as const).find((name) => options[name]) ?? 'images';
const { fallback, fuzz } = KINDS[kind];
const cases = options.cases ?? (options.seed !== undefined ? 1 : fallback);
const started = performance.now();
const counts = await fuzz();
console.log({
  ...counts,
  casesASecond: Math.round((counts.cases / (performance.now() - started)) * 10_000) / 10,
});

function fuzzImages(): { cases: number; opened: number; failed: number } {
  const module = loadEngine(options.engine);
  const trace: string[] = [];
  let told = started;
  let opened = 0;
  let failed = 0;
  let seed = first;
  for (; seed < first + cases; seed++) {
    if (performance.now() - told > PROGRESS_MS) {
      told = performance.now();
      console.error(`seed ${seed}: ${seed - first} images, ${failed} failed`);
    }
    const result = runCase(module, seed, cases === 1 ? (line) => trace.push(line) : undefined);
    if (result.opened) opened++;
    if (!result.error) continue;
    failed++;
    if (trace.length) console.log(trace.join('\n'));
    tell(seed, result.error, result.mutations);
    if (!options.keep) break;
  }
  return { cases: Math.min(seed - first + 1, cases), opened, failed };
}

async function fuzzServers(): Promise<{
  cases: number;
  errors: Record<string, number>;
  failed: number;
}> {
  const errors: Record<string, number> = {};
  let failed = 0;
  await runServerCases(first, cases, SERVER_LANES, (seed, { codes, deeds, error }) => {
    for (const code of codes) errors[code] = (errors[code] ?? 0) + 1;
    if (!error) return;
    failed++;
    tell(seed, error, deeds);
    if (!options.keep) process.exit();
  });
  return { cases, errors, failed };
}

async function fuzzNbd(): Promise<{ cases: number; failed: number }> {
  let failed = 0;
  let seed = first;
  for (; seed < first + cases; seed++) {
    try {
      await runHostileClients(seed);
      await runPowerCut(seed);
    } catch (error) {
      failed++;
      tell(seed, error as Error, []);
      if (!options.keep) break;
    }
  }
  return { cases: Math.min(seed - first + 1, cases), failed };
}

/** What came of cases that end by bytes or by an error's code. */
interface Counts {
  cases: number;
  errors: Record<string, number>;
  whole: number;
  failed: number;
}

async function fuzzContainers(): Promise<Counts> {
  const fixtures = await makeContainerFixtures();
  return countCases((seed) => runContainerCase(fixtures, seed));
}

async function fuzzFormats(): Promise<Counts> {
  const images = await foreignImages();
  return countCases((seed) => runFormatCase(images, seed));
}

async function countCases(
  run: (
    seed: number,
  ) => Promise<{ isWhole: boolean; code?: string; error?: Error; mutations: string[] }>,
): Promise<Counts> {
  const errors: Record<string, number> = {};
  let whole = 0;
  let failed = 0;
  let seed = first;
  for (; seed < first + cases; seed++) {
    const { error, code, isWhole, mutations } = await run(seed);
    if (code !== undefined) errors[code] = (errors[code] ?? 0) + 1;
    if (isWhole) whole++;
    if (!error) continue;
    failed++;
    tell(seed, error, mutations);
    if (!options.keep) break;
  }
  return { cases: Math.min(seed - first + 1, cases), errors, whole, failed };
}

function tell(seed: number, error: Error, deeds: readonly string[]): void {
  const flag = kind === 'images' ? '' : ` --${kind}`;
  const what = cases === 1 ? error.stack : error.message.slice(0, 300);
  console.log(
    `seed ${seed}: ${what}\n  ${deeds.join('\n  ')}\n  replay: npm run fuzz --${flag} --seed ${seed}`,
  );
  process.exitCode = 1;
}
