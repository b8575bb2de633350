/**
 * The console's benchmark: how long a Linux guest takes to its prompt in Chromium, from disks of
 * different kinds over one link.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { BrowserContext, Page } from 'playwright-core';
import { build } from 'vite';
import { serveSite } from '../browser/site.ts';
import { makeGuest } from '../guest/guest.ts';
import { BIOS_FOLDER } from '../guest/machine.ts';
import type { Images } from '../web/site.ts';
import { serveGuest, startBrowser } from '../web/site.ts';
import type { BootFigures, DiskKind, Image } from './console-page/main.ts';
import type { BenchRow } from './table.ts';

const PAGE = fileURLToPath(new URL('console-page/', import.meta.url));
const ROUND_TRIP_MS = 50;
const BITS_PER_SECOND = 200e6;
const MIB = 1024 * 1024;
/**
 * Of each kind the quickest boot counts; the kinds take turns, so that what else the machine does
 * meets all of them.
 */
const RUNS = 3;
const KINDS: readonly DiskKind[] = ['memory', 'first', 'second', 'profile', 'async', 'chunks'];
/** Takes twice as long as the others, and no goal hangs on it: it boots once. */
const ONCE: DiskKind = 'async';
const BOOT_MS_MAX = 180_000;
/**
 * How much longer than from memory a boot may take: on the first visit, and on the second, and on
 * the first with a boot profile.
 */
const FIRST_MAX = 1.15;
const SECOND_MAX = 1.05;
const PROFILE_MAX = 1.05;
/**
 * Of what v86's reader by the MiB lets the guest wait, ours is to let it wait less than this part.
 */
const WAIT_MAX = 0.5;

interface Figures extends BootFigures {
  requests: number;
  bytes: number;
}

/** From the start of the page to the prompt, for each kind of disk, and what that cost. */
export async function consoleBoots(): Promise<BenchRow[]> {
  const guest = await makeGuest();
  const folder = await buildPage();
  const site = await serveSite(folder);
  const images = await serveGuest(guest, ROUND_TRIP_MS, BITS_PER_SECOND);
  try {
    const profile = await record(`${site.origin}/`, images.url);
    const best = new Map<DiskKind, Figures>();
    for (let run = 0; run < RUNS; run++) {
      const browser = await startBrowser();
      try {
        await warmUp(browser.context, `${site.origin}/`);
        for (const kind of KINDS) {
          if (kind === ONCE && run > 0) continue;
          const image = { kind, url: images.url, size: guest.size, profile };
          const figures = await bootOnce(browser.context, `${site.origin}/`, image, images);
          console.error(
            `  ${kind}: ${figures.seconds.toFixed(1)} s, of which it waited ${figures.waitSeconds.toFixed(2)} s`,
          );
          if (figures.seconds < (best.get(kind)?.seconds ?? Infinity)) best.set(kind, figures);
        }
      } finally {
        await browser.close();
      }
    }
    return rows(best);
  } finally {
    await images.stop();
    await site.stop();
    await rm(folder, { recursive: true });
  }
}

/** A browser's first page waits for more than its own files. */
async function warmUp(context: BrowserContext, url: string): Promise<void> {
  const page = await context.newPage();
  await page.goto(url);
  await page.close();
}

async function bootOnce(
  context: BrowserContext,
  url: string,
  image: Image,
  images: Images,
): Promise<Figures> {
  const before = await images.traffic();
  const page = await openPage(context, url);
  const booted = page.evaluate((image) => globalThis.boot(image), image);
  const figures = await Promise.race([booted, late(image.kind)]);
  const after = await images.traffic();
  await page.close();
  return {
    ...figures,
    requests: after.requests - before.requests,
    bytes: after.bytes - before.bytes,
  };
}

/** The boot profile of the image, recorded in a browser of its own. */
async function record(url: string, imageUrl: string): Promise<readonly number[]> {
  const browser = await startBrowser();
  try {
    const page = await openPage(browser.context, url);
    return await page.evaluate((imageUrl) => globalThis.record(imageUrl), imageUrl);
  } finally {
    await browser.close();
  }
}

async function openPage(context: BrowserContext, url: string): Promise<Page> {
  const page = await context.newPage();
  page.setDefaultTimeout(BOOT_MS_MAX);
  await page.goto(url);
  await page.waitForFunction('globalThis.boot !== undefined');
  return page;
}

async function late(kind: DiskKind): Promise<never> {
  await setTimeout(BOOT_MS_MAX, undefined, { ref: false });
  throw new Error(`no prompt within ${BOOT_MS_MAX / 1000} s from the disk '${kind}'`);
}

function rows(figures: Map<DiskKind, Figures>): BenchRow[] {
  const of = (kind: DiskKind): Figures => figures.get(kind)!;
  const name = `boot in Chromium, ${ROUND_TRIP_MS} ms, ${BITS_PER_SECOND / 1e6} Mbit/s`;
  const against = (
    kind: DiskKind,
    visit: string,
    peer: DiskKind,
    label: string,
    goalRatio?: number,
  ): BenchRow => ({
    case: `${name}: ${visit}`,
    ours: [of(kind).seconds],
    peer: label,
    theirs: [of(peer).seconds],
    goalRatio,
  });
  const costs = KINDS.flatMap((kind): BenchRow[] => [
    { case: `  ${kind}: requests until the prompt`, value: of(kind).requests, unit: '' },
    { case: `  ${kind}: until the prompt`, value: of(kind).bytes / MIB, unit: 'MiB' },
    { case: `  ${kind}: the guest waited for its disk`, value: of(kind).waitSeconds, unit: 's' },
  ]);
  return [
    against('first', 'first visit', 'memory', 'from memory', 1 / FIRST_MAX),
    against('second', 'second visit', 'memory', 'from memory', 1 / SECOND_MAX),
    against(
      'profile',
      'first visit, with a boot profile',
      'memory',
      'from memory',
      1 / PROFILE_MAX,
    ),
    against('first', 'first visit', 'async', 'v86 async'),
    against('first', 'first visit', 'chunks', 'v86 async, chunks of 1 MiB'),
    {
      case: '  waiting for the disk, by that with chunks of 1 MiB',
      value: of('first').waitSeconds / of('chunks').waitSeconds,
      unit: '',
      goalMax: WAIT_MAX,
    },
    ...costs,
  ];
}

async function buildPage(): Promise<string> {
  const outDir = await mkdtemp(join(tmpdir(), 'millrace-console-bench-'));
  await build({
    root: PAGE,
    base: './',
    configFile: false,
    logLevel: 'error',
    resolve: { alias: { seabios: BIOS_FOLDER } },
    worker: { format: 'es' },
    build: {
      outDir,
      emptyOutDir: true,
      assetsInlineLimit: 0,
      target: 'es2022',
      chunkSizeWarningLimit: 1024,
    },
  });
  return outDir;
}
