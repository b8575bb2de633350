/**
 * What the console's tests and its bench share: the built page, the guest behind a slow link, and a
 * browser with a profile.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BrowserContext, Page } from 'playwright-core';
import { chromium } from 'playwright-core';
import { build } from 'vite';
import type { Site, SiteOptions } from '../browser/site.ts';
import { serveSite } from '../browser/site.ts';
import { makeContent } from '../fixtures/content.ts';
import type { Guest } from '../guest/guest.ts';
import { startNginx } from '../support/nginx.ts';
import { peerPath } from '../support/peer.ts';
import type { SlowLinkProcess } from '../support/slow-link.ts';
import { startSlowLinkProcess } from '../support/slow-link.ts';

/** As samples.json lists it. */
interface Sample {
  name: string;
  url: string;
  size: number;
}

const WEB = fileURLToPath(new URL('../../web/', import.meta.url));
export const DESKTOP = { width: 1280, height: 860 } as const;
export const PHONE = { width: 390, height: 844 } as const;
export const HALTED_BYTES: number = 32 * 1024 * 1024;
/** What a server must send for a page of another origin to read images: see the browser host. */
const CORS = `location / {
  add_header Access-Control-Allow-Origin *;
  # The second one is for v86's own reader, which the bench compares with.
  add_header Access-Control-Allow-Headers 'Range, X-Accept-Encoding';
  add_header Access-Control-Expose-Headers 'Content-Range, ETag';
  add_header Access-Control-Max-Age 86400;
  # Nobody is served from the browser's cache what another has fetched.
  add_header Cache-Control no-store;
  if ($request_method = OPTIONS) { return 204; }
}
location /closed/ { alias ROOT/; }`;

/** Images on a server of their own, behind a link. */
export interface Images {
  readonly link: SlowLinkProcess;
  /** Of the guest's image, for any page. */
  readonly url: string;
  /** The same, from a server that allows no other page. */
  readonly closedUrl: string;
  /** What has been asked for so far, and the bytes that were sent. */
  traffic(): Promise<{ requests: number; bytes: number }>;
  stop(): Promise<void>;
}

export async function serveGuest(
  guest: Guest,
  roundTripMs: number,
  bitsPerSecond: number,
): Promise<Images> {
  const nginx = await startNginx({ root: guest.dir, extra: CORS.replace('ROOT', guest.dir) });
  const link = await startSlowLinkProcess({
    target: { host: '127.0.0.1', port: nginx.port },
    roundTripMs,
    bitsPerSecond,
  });
  return {
    link,
    url: link.url(`/${guest.file}`),
    closedUrl: link.url(`/closed/${guest.file}`),
    async traffic() {
      const log = await nginx.log();
      return { requests: log.length, bytes: log.reduce((sum, { bytes }) => sum + bytes, 0) };
    },
    async stop() {
      await link.stop();
      await nginx.stop();
    },
  };
}

/**
 * The console as it is deployed in `folder`, with this image as its sample.
 */
export async function serveConsole({
  sample,
  ...options
}: { sample?: Sample } & SiteOptions = {}): Promise<Site & { readonly folder: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-console-'));
  // The test runner sets NODE_ENV, and Vite would take this for a build that is not to be deployed.
  const define = { 'import.meta.env.PROD': 'true' };
  await build({
    configFile: join(WEB, 'vite.config.ts'),
    publicDir: false,
    logLevel: 'error',
    define,
    build: { outDir: folder },
  });
  if (sample) await writeFile(join(folder, 'samples.json'), JSON.stringify([sample]));
  const site = await serveSite(folder, options);
  return {
    ...site,
    folder,
    async stop() {
      await site.stop();
      await rm(folder, { recursive: true });
    },
  };
}

export interface Browser {
  readonly context: BrowserContext;
  close(): Promise<void>;
}

/** Chromium with a profile on disk: in a private one its storage is many times slower. */
export async function startBrowser(): Promise<Browser> {
  const profile = await mkdtemp(join(tmpdir(), 'millrace-console-profile-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: peerPath('chromium'),
    headless: true,
    chromiumSandbox: false,
    viewport: DESKTOP,
    colorScheme: 'dark',
    acceptDownloads: true,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-dev-shm-usage',
    ],
  });
  return {
    context,
    async close() {
      await context.close();
      await rm(profile, { recursive: true, force: true, maxRetries: 3 });
    },
  };
}

/** An image full of data whose boot record runs `code`, and then does nothing. */
export function haltedImage(code: readonly number[] = []): Uint8Array {
  const image = makeContent('random', 3, HALTED_BYTES);
  // hlt; jmp to it; and the mark of a boot record.
  image.set([...code, 0xf4, 0xeb, 0xfd]);
  image.set([0x55, 0xaa], 510);
  return image;
}

export async function boot(page: Page, url: string): Promise<void> {
  await page.getByLabel('Image URL').fill(url);
  await page.getByRole('button', { name: 'Boot', exact: true }).click();
}

/** The names in the list of disks. */
export function disks(page: Page): Promise<string[]> {
  return page.locator('#disks h3').allTextContents();
}
