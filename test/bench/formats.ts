/**
 * Published images: streams from containers and formats, beside what fetches the same file and what
 * decodes it, whichever of the two takes longer; and beside nbdkit with its filters.
 */
import { basename } from 'node:path';
import type { QemuFormat } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import type { Packing } from './data.ts';
import { binariesAs, binariesPacked, largeXz, PACKINGS } from './data.ts';
import { overLine, QUICK } from './lines.ts';
import { firstRead, timeStream } from './ours.ts';
import { runsInTurn, runsOf, seconds, timeConvert, timeCurl, warm } from './peers.ts';
import type { BenchRow } from './table.ts';
import { best } from './table.ts';

const RUNS = 3;
const LINE_RUNS = 2;
const GOAL = 0.8;
const MIB = 1024 * 1024;
const FIRST_READ_BYTES = 4096;

/** What decodes a file, its bytes dropped. */
const DECODERS: Record<Packing, string> = {
  'raw.xz': 'xz -dc -T0 "$0"',
  'raw.gz': 'gzip -dc "$0"',
  'raw.zst': 'zstd -dcq "$0"',
  'raw.zip':
    'python3 -c "import sys, zipfile, shutil; z = zipfile.ZipFile(sys.argv[1]); shutil.copyfileobj(z.open(z.namelist()[0]), sys.stdout.buffer, 1 << 20)" "$0"',
  'raw.tar': 'tar -xOf "$0"',
  ova: 'tar -xOf "$0" --wildcards "*.vmdk"',
};

/** nbdkit and its filters, as far as there is one, read to the end. */
const NBDKITS: Partial<Record<Packing, string>> = {
  'raw.xz': 'nbdkit -U - file "$0" --filter=xz --run \'nbdcopy "$uri" null:\'',
  'raw.gz': 'nbdkit -U - file "$0" --filter=gzip --run \'nbdcopy "$uri" null:\'',
  'raw.tar':
    'nbdkit -U - file "$0" --filter=tar tar-entry="$(tar -tf "$0")" --run \'nbdcopy "$uri" null:\'',
};

const FORMATS: [QemuFormat & ('vmdk' | 'vpc' | 'vhdx' | 'vdi' | 'qed'), string?][] = [
  ['vmdk'],
  ['vmdk', 'streamOptimized'],
  ['vpc'],
  ['vhdx'],
  ['vdi'],
  ['qed'],
];

export async function publishedImages(): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const packing of PACKINGS) rows.push(...(await streamsOf(packing)));
  rows.push(...(await firstReadRows()));
  for (const [format, subformat] of FORMATS) rows.push(await besideConvert(format, subformat));
  return rows;
}

/** Over a line beside the slower of curl and the decoder; local beside the decoder and nbdkit. */
async function streamsOf(packing: Packing): Promise<BenchRow[]> {
  const path = await binariesPacked(packing);
  await warm(path);
  const rows: BenchRow[] = [];
  const decode = (): Promise<number> => timeShell(DECODERS[packing], path);
  const decoder = await runsOf(LINE_RUNS, decode);
  await overLine(QUICK, async (url) => {
    const base = url(basename(path));
    const [ours, curl] = await runsInTurn(LINE_RUNS, [
      async () => (await timeStream(base)).seconds,
      () => timeCurl(base),
    ]);
    const isCurlSlower = best(curl) > best(decoder);
    rows.push({
      case: `512 MiB as ${packing} over ${QUICK.name}`,
      ours,
      peer: isCurlSlower ? 'curl' : 'the decoder',
      theirs: isCurlSlower ? curl : decoder,
      goalRatio: GOAL,
    });
  });
  const nbdkit = NBDKITS[packing];
  const [ours, decoded, served] = await runsInTurn(RUNS, [
    async () => (await timeStream(path, 'unsafe')).seconds,
    decode,
    ...(nbdkit === undefined ? [] : [() => timeShell(nbdkit, path)]),
  ]);
  const local = `512 MiB as ${packing}, local, left in the page cache`;
  rows.push({
    case: local,
    ours,
    peer: `the decoder (${DECODERS[packing].split(' ')[0]}) into nothing`,
    theirs: decoded,
    goalRatio: GOAL,
  });
  if (served !== undefined)
    rows.push({
      case: local,
      ours,
      peer: 'nbdkit, its filter, and nbdcopy',
      theirs: served,
      goalRatio: GOAL,
    });
  return rows;
}

async function firstReadRows(): Promise<BenchRow[]> {
  const path = await largeXz();
  const rows: BenchRow[] = [];
  await overLine(QUICK, async (url) => {
    const { requests, bytes } = await firstRead(url(basename(path)), FIRST_READ_BYTES);
    const name = 'first 4 KiB of a 4 GiB raw.xz in blocks of 1 MiB';
    rows.push({ case: name, value: requests, unit: 'requests', goalMax: 4 });
    rows.push({ case: '', value: bytes / MIB, unit: 'MiB', goalMax: 3 });
  });
  return rows;
}

async function besideConvert(
  format: (typeof FORMATS)[number][0],
  subformat: string | undefined,
): Promise<BenchRow> {
  const path = await binariesAs(format, subformat);
  await warm(path);
  const [ours, convert] = await runsInTurn(RUNS, [
    async () => (await timeStream(path, 'unsafe')).seconds,
    () => timeConvert({ location: path, format }, 8),
  ]);
  return {
    case: `512 MiB as ${subformat ? `${subformat} ` : ''}${format}, local, left in the page cache`,
    ours: ours,
    peer: 'qemu-img convert -W -m 8',
    theirs: convert,
    goalRatio: GOAL,
  };
}

function timeShell(command: string, path: string): Promise<number> {
  return seconds(() => run('sh', ['-ec', `${command} > /dev/null`, path]));
}
