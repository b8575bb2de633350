/** Millrace's own side of the benchmarks, measured on the built package, as a user has it. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { CacheMode } from '../../hosts/api/open.ts';
import type * as Millrace from '../../hosts/node/index.ts';

const DIST = fileURLToPath(new URL('../../dist/', import.meta.url));

export async function library(): Promise<typeof Millrace> {
  return import(pathToFileURL(join(DIST, 'node/index.js')).href) as Promise<typeof Millrace>;
}

/** What one stream took. */
export interface StreamFigures {
  /**
   * From creating the overlay to the end of the job, everything flushed unless the cache mode is
   * `unsafe`.
   */
  seconds: number;
  requests: number;
  bytes: number;
}

/** Creates an overlay over a base and streams it whole. */
export async function timeStream(base: string, cache?: CacheMode): Promise<StreamFigures> {
  const { createDisk, openHttp } = await library();
  return inScratchFolder(async (dir) => {
    const startMs = performance.now();
    const source = base.startsWith('http') ? await openHttp(base) : undefined;
    const disk = await createDisk({
      overlay: join(dir, 'overlay.qcow2'),
      base: source ?? base,
      cache,
    });
    await disk.stream();
    const seconds = (performance.now() - startMs) / 1000;
    await disk.close();
    return { seconds, requests: source?.stats.requests ?? 0, bytes: source?.stats.bytes ?? 0 };
  });
}

/** Opens an overlay over a base and reads so many bytes in the middle of it: what that costs. */
export async function firstRead(base: string, length = 512): Promise<StreamFigures> {
  const { createDisk, openDisk, openHttp } = await library();
  return inScratchFolder(async (dir) => {
    const overlay = join(dir, 'overlay.qcow2');
    await (await createDisk({ overlay, base })).close();
    const startMs = performance.now();
    const source = await openHttp(base);
    const disk = await openDisk({ overlay, base: source });
    await disk.read(disk.size / 2, length);
    const seconds = (performance.now() - startMs) / 1000;
    const { requests, bytes } = source.stats;
    await disk.close();
    return { seconds, requests, bytes };
  });
}

/**
 * `millrace stream` as a user runs it: the process from its start to its end, all flushed. The
 * overlay is there already.
 */
export async function timeCommand(base: string): Promise<number> {
  return inScratchFolder(async (dir) => {
    const overlay = join(dir, 'overlay.qcow2');
    await millrace(['create', overlay, '--base', base]);
    const startMs = performance.now();
    await millrace(['stream', overlay]);
    return (performance.now() - startMs) / 1000;
  });
}

/** Most memory, in MiB, that `millrace stream` held while it streamed a base. */
export async function peakMemory(base: string): Promise<number> {
  return inScratchFolder(async (dir) => {
    const overlay = join(dir, 'overlay.qcow2');
    await millrace(['create', overlay, '--base', base]);
    const stderr = await millrace(['stream', overlay], ['--import', TELL_MEMORY]);
    const [, kib] = /max-rss-kib=(\d+)/.exec(stderr) ?? [];
    if (kib === undefined) throw new Error('millrace stream did not tell its memory');
    return Number(kib) / 1024;
  });
}

/**
 * Prints, as a process ends, the most memory that it had. Linux starts getrusage's figure at what
 * its parent had when it was made.
 */
const TELL_MEMORY = `data:text/javascript,${encodeURIComponent(String.raw`
  import { readFileSync } from 'node:fs';
  const ofLinux = () => /VmHWM:\s*(\d+)/.exec(readFileSync('/proc/self/status'))[1];
  const peak = process.platform === 'linux' ? ofLinux : () => process.resourceUsage().maxRSS;
  process.on('exit', () => console.error('max-rss-kib=' + peak()));
`)}`;

async function millrace(args: string[], flags: string[] = []): Promise<string> {
  const child = spawn(process.execPath, [...flags, join(DIST, 'node/main.js'), ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const code = await new Promise((resolve) => child.once('close', resolve));
  if (code !== 0) throw new Error(`millrace ${args.join(' ')} ended with ${code}: ${stderr}`);
  return stderr;
}

async function inScratchFolder<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  try {
    return await work(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
