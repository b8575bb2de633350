/**
 * A Linux guest in v86 in Chromium: a page that boots it from disks of different kinds, and what
 * each boot takes and fetches.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { BrowserContext, Page } from 'playwright-core';
import { build } from 'vite';
import { serveSite } from '../browser/site.ts';
import type { Guest } from '../guest/guest.ts';
import { BIOS_FOLDER } from '../guest/machine.ts';
import type { Images } from '../web/site.ts';
import { serveGuest, startBrowser } from '../web/site.ts';
import type { BootFigures, DiskKind, Image } from './console-page/main.ts';
import type { Line } from './lines.ts';

const PAGE = fileURLToPath(new URL('console-page/', import.meta.url));
const BOOT_MS_MAX = 300_000;

/** What one boot took, and what was fetched by its end. */
export interface Figures extends BootFigures {
  requests: number;
  bytes: number;
}

/** Boots from the image of this name beside the guest's own, once from each kind, in order. */
export type BootEach = (
  file: string,
  kinds: readonly DiskKind[],
) => Promise<ReadonlyMap<DiskKind, Figures>>;

/** Serves the guest's folder over a line, and boots from there as often as `work` asks for. */
export async function inChromium<T>(
  guest: Guest,
  line: Line,
  work: (bootEach: BootEach) => Promise<T>,
): Promise<T> {
  const folder = await buildPage();
  const site = await serveSite(folder);
  const images = await serveGuest(guest, line.roundTripMs, line.bitsPerSecond);
  const page = `${site.origin}/`;
  try {
    return await work((file, kinds) => bootEach({ guest, page, images, file }, kinds));
  } finally {
    await images.stop();
    await site.stop();
    await rm(folder, { recursive: true });
  }
}

/** What boots have in common. */
interface Setting {
  guest: Guest;
  /** The page's URL. */
  page: string;
  images: Images;
  file: string;
}

/** In a browser of its own, of which the first page is not measured. */
async function bootEach(
  { guest, page, images, file }: Setting,
  kinds: readonly DiskKind[],
): Promise<ReadonlyMap<DiskKind, Figures>> {
  const url = images.link.url(`/${file}`);
  const profile = kinds.includes('profile') ? await record(page, url) : [];
  const figures = new Map<DiskKind, Figures>();
  const browser = await startBrowser();
  try {
    await warmUp(browser.context, page);
    for (const kind of kinds) {
      const image = { kind, url, size: guest.size, profile };
      const booted = await bootOnce(browser.context, page, image, images);
      const [took, waited] = [booted.seconds.toFixed(1), booted.waitSeconds.toFixed(2)];
      console.error(`  ${file}: ${kind}: ${took} s, of which it waited ${waited} s`);
      figures.set(kind, booted);
    }
  } finally {
    await browser.close();
  }
  return figures;
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
