/**
 * What a user waits for: the Debian guest in QEMU (software emulation) from a disk by NBD, whose
 * base is at the end of a line. To its prompt, to its first work (a sum of files that nobody read
 * before), and to a disk that stands alone; with what has gone over the line by the prompt. Then
 * the same guest in v86 in Chromium.
 */
import { copyFile, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { bytesOf, decodeProfile } from '../../hosts/profiles/format.ts';
import { startMillrace } from '../cli/program.ts';
import type { Guest } from '../guest/guest.ts';
import { makeGuest } from '../guest/guest.ts';
import { QemuMachine } from '../guest/qemu-machine.ts';
import { startNginx } from '../support/nginx.ts';
import { run } from '../support/run.ts';
import { startSlowLinkProcess } from '../support/slow-link.ts';
import type { DiskServer, Format, Scene, Way } from './boot-ways.ts';
import { DOWNLOADED, LOCAL, WAYS } from './boot-ways.ts';
import type { BootLine } from './chromium-boots.ts';
import { chromiumBoots } from './chromium-boots.ts';
import type { Line } from './lines.ts';
import type { BenchRow, Runs } from './table.ts';
import { best, middle } from './table.ts';

/** With what is aimed at over each: the prompt, by that of a local file, or of a disk in memory. */
const LINES: readonly (Line & BootLine)[] = [
  { name: '20 ms, 1 Gbit/s', roundTripMs: 20, bitsPerSecond: 1e9, goals: { profile: 1.05 } },
  {
    name: '50 ms, 200 Mbit/s',
    roundTripMs: 50,
    bitsPerSecond: 200e6,
    goals: { first: 1.15, profile: 1.05 },
    isPictured: true,
  },
  { name: '100 ms, 50 Mbit/s', roundTripMs: 100, bitsPerSecond: 50e6, goals: { profile: 1.3 } },
];
const FORMATS: readonly Format[] = ['raw', 'qcow2'];
/**
 * Each way boots once: that takes most of an hour. What all are measured by boots again before each
 * so many, so that one of its boots is not what all depends on: the middle one counts.
 */
const WAYS_A_LOCAL = 3;
const BOOT_MS_MAX = 600_000;
/** Nothing writes to the serial line but what was read from the disk. */
const LOADER = /\S/;
const MIB = 1024 * 1024;
const WORK = 'md5sum $(find /usr/bin /usr/sbin -type f -size +60k | sort | tail -n 60) | md5sum';

/** One boot, in seconds from when the user asked for it. */
interface Boot {
  /** When it first says something. */
  first: number;
  prompt: number;
  work: number;
  alone?: number;
  fetched?: number;
  /** Over the line by the prompt. */
  bytes: number;
  requests: number;
}

/** All boots of each way over one line. */
type Boots = ReadonlyMap<Way, readonly Boot[]>;

/** `npm run bench -- boot`. */
export async function boots(): Promise<BenchRow[]> {
  const guest = await makeGuest();
  const rows: BenchRow[] = [];
  for (const format of FORMATS) rows.push(...(await qemuBoots(guest, format)));
  return [...rows, ...(await chromiumBoots(guest, LINES))];
}

async function qemuBoots(guest: Guest, format: Format): Promise<BenchRow[]> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-boot-'));
  const rows: BenchRow[] = [];
  try {
    const { path, read } = await prepare(guest, folder, format);
    for (const line of LINES) {
      const boots = await overLine(guest, { folder, format, path }, line);
      for (const way of boots.keys()) rows.push(...rowsOf(way, line, boots, { format, read }));
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return rows;
}

/** The image, and its profile beside it: recorded from the file itself. */
async function prepare(guest: Guest, folder: string, format: Format) {
  const path = join(folder, `guest.${format}`);
  if (format === 'raw') await copyFile(guest.path, path);
  else await run('qemu-img', ['convert', '-c', '-O', 'qcow2', guest.path, path]);
  const profile = `guest.${format}.profile`;
  const record = ['--nbd', 'unix:record', '--create', '--base', path, '--record', profile];
  const server = startMillrace(['serve', ...record, 'vda=record.qcow2'], { cwd: folder });
  await server.until('stderr', /serving until/);
  const machine = new QemuMachine(folder, 'record');
  try {
    await machine.until(guest.prompt, BOOT_MS_MAX);
  } finally {
    machine.child.kill('SIGKILL');
    server.child.kill('SIGINT');
  }
  const { stderr } = await server.ended;
  console.error(stderr.trim().split('\n').at(-1));
  const { ranges } = await decodeProfile(await readFile(join(folder, profile)));
  // What was recorded of the file is of what the server tells of it: their sizes decide.
  return { path, read: bytesOf(ranges) };
}

/** All ways over one line, one after another: the image keeps its URL, which the cache goes by. */
async function overLine(guest: Guest, scene: Omit<Scene, 'url'>, line: Line): Promise<Boots> {
  const ways = WAYS.filter((way) => scene.format === 'raw' || !way.isRawOnly);
  const boots = new Map(ways.map((way): [Way, Boot[]] => [way, []]));
  const nginx = await startNginx({ root: scene.folder });
  const target = { host: '127.0.0.1', port: nginx.port };
  const link = await startSlowLinkProcess({ ...line, target });
  const path = `/guest.${scene.format}`;
  const sent = async (): Promise<Sent> => {
    const log = (await nginx.log()).filter(({ uri }) => uri === path);
    return { requests: log.length, bytes: log.reduce((sum, { bytes }) => sum + bytes, 0) };
  };
  const turns = ways.flatMap((way, index) =>
    index > 0 && index % WAYS_A_LOCAL === 0 ? [LOCAL, way] : [way],
  );
  try {
    const url = link.url(path);
    for (const [index, way] of turns.entries()) {
      const figures = await boot(guest, { ...scene, url }, way, `sock-${index}`, sent);
      const seconds = figures.prompt.toFixed(1);
      console.error(`  ${scene.format}, ${line.name}: ${way.name}: ${seconds} s to the prompt`);
      boots.get(way)!.push(figures);
    }
    await removeMade(scene.folder);
  } finally {
    await link.stop();
    await nginx.stop();
  }
  return boots;
}

async function removeMade(folder: string): Promise<void> {
  for (const name of await readdir(folder))
    if (name.startsWith('sock-') || name === 'cache')
      await rm(join(folder, name), { recursive: true });
}

/** What has gone over a line so far of the image itself. */
interface Sent {
  bytes: number;
  requests: number;
}

async function boot(
  guest: Guest,
  scene: Scene,
  way: Way,
  socket: string,
  sent: () => Promise<Sent>,
): Promise<Boot> {
  await way.prepare?.(scene, socket);
  const before = await sent();
  const begun = performance.now();
  const seconds = (): number => (performance.now() - begun) / 1000;
  let machine: QemuMachine | undefined;
  let server: DiskServer | undefined;
  try {
    server = await way.serve(scene, socket);
    const alone = server.alone?.then(seconds);
    machine = new QemuMachine(scene.folder, socket);
    await machine.until(LOADER, BOOT_MS_MAX);
    const first = seconds();
    await machine.until(guest.prompt, BOOT_MS_MAX);
    const prompt = seconds();
    const { bytes, requests } = await sent();
    await machine.type(WORK);
    const work = seconds();
    return {
      first,
      prompt,
      work,
      alone: await alone,
      fetched: server.fetchSeconds,
      bytes: bytes - before.bytes,
      requests: requests - before.requests,
    };
  } finally {
    machine?.child.kill('SIGKILL');
    await server?.stop();
  }
}

/** What is known of an image beside its boots. */
interface Known {
  format: Format;
  /** Bytes of it that the guest reads. */
  read: number;
}

function rowsOf(
  way: Way,
  line: Line & BootLine,
  boots: Boots,
  { format, read }: Known,
): BenchRow[] {
  const all = (name: keyof Boot, of = way): Runs => boots.get(of)!.map((boot) => boot[name] ?? 0);
  const by = (name: keyof Boot, divisor: number): Runs => all(name).map((value) => value / divisor);
  const group = `${line.name}, ${format}, QEMU`;
  const prompts = by('prompt', middle(all('prompt', LOCAL)));
  const rows: BenchRow[] = [
    { case: `${group}: ${way.name}, to the prompt`, value: all('prompt'), unit: 's' },
    {
      case: "  by a local file's",
      value: prompts,
      unit: '',
      goalMax: typeof way.goal === 'string' ? line.goals[way.goal] : way.goal,
      bar: line.isPictured
        ? { group, name: way.name, ratio: best(prompts), isOurs: way.isOurs ?? false }
        : undefined,
    },
    { case: '  to its first word', value: all('first'), unit: 's' },
    {
      case: "  to its first work, by a local file's",
      value: by('work', middle(all('work', LOCAL))),
      unit: '',
    },
  ];
  if (way === LOCAL) return rows.filter((row) => !row.case.includes('by a local'));
  if (all('alone').some((seconds) => seconds > 0))
    rows.push({
      case: '  to standing alone, by what curl takes for the file',
      value: by('alone', best(all('fetched', DOWNLOADED))),
      unit: '',
      goalMax: way.aloneMax,
    });
  return [
    ...rows,
    { case: '  requests at the prompt', value: all('requests'), unit: '' },
    { case: '  bytes at the prompt', value: by('bytes', MIB), unit: 'MiB' },
    {
      case: '  the same by what the guest read',
      value: by('bytes', read),
      unit: '',
      goalMax: way.bytesMax,
    },
  ];
}
