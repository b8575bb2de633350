/**
 * Real browsers for tests: Debian's Chromium by playwright-core and its Firefox by puppeteer-core,
 * behind one small face. Each has a profile of its own on disk (OPFS is many times slower in a
 * private one), removed afterwards.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BrowserContext, CDPSession, Page } from 'playwright-core';
import { chromium } from 'playwright-core';
import type { Page as FirefoxPage } from 'puppeteer-core';
import puppeteer from 'puppeteer-core';
import { peerPath } from '../support/peer.ts';
import type { Tools } from './page/main.ts';

/**
 * A tab. Functions run in the page, by their text: they see nothing of the test but `tools` and
 * their argument, which is JSON.
 */
export interface Tab {
  run<A, R>(script: (tools: Tools, argument: A) => Promise<R> | R, argument?: A): Promise<R>;
  /** Opens the test page anew, and waits until its script has run. */
  reload(): Promise<void>;
  close(): Promise<void>;
  /** What the console said. */
  readonly console: string[];
}

export interface BrowserUnderTest {
  readonly name: 'chromium' | 'firefox';
  open(url: string): Promise<Tab>;
  /** Chrome's own protocol for a tab; Chromium only. */
  protocol(tab: Tab): Promise<CDPSession>;
  close(): Promise<void>;
}

/** What every Chromium of the tests and benchmarks is started with. */
export const CHROMIUM_FLAGS: readonly string[] = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  // A name that is not loopback's, for pages without a secure context.
  '--host-resolver-rules=MAP insecure.test 127.0.0.1',
];

export async function startChromium(): Promise<BrowserUnderTest> {
  const profile = await mkdtemp(join(tmpdir(), 'millrace-chromium-'));
  const context: BrowserContext = await chromium.launchPersistentContext(profile, {
    executablePath: peerPath('chromium'),
    headless: true,
    args: [...CHROMIUM_FLAGS],
    chromiumSandbox: false,
  });
  const pages = new Map<Tab, Page>();
  return {
    name: 'chromium',
    async open(url) {
      const page = await context.newPage();
      const console: string[] = [];
      page.on('console', (message) => console.push(message.text()));
      page.on('pageerror', (error) => console.push(String(error)));
      await page.goto(url);
      const ready = (): Promise<unknown> => page.waitForFunction('globalThis.tools !== undefined');
      await ready();
      const tab: Tab = {
        console,
        run: (script, argument) => page.evaluate(callOf(script, argument)) as never,
        reload: async () => {
          await page.reload();
          await ready();
        },
        close: () => page.close(),
      };
      pages.set(tab, page);
      return tab;
    },
    protocol: (tab) => context.newCDPSession(pages.get(tab)!),
    async close() {
      await context.close();
      await rm(profile, { recursive: true, force: true, maxRetries: 3 });
    },
  };
}

/** What every Firefox of the tests is started with. */
const FIREFOX_PREFERENCES = {
  'network.dns.localDomains': 'insecure.test',
  // Nobody is there to be asked.
  'dom.storageManager.prompt.testing': true,
  'dom.storageManager.prompt.testing.allow': true,
};

export async function startFirefox(
  preferences: Record<string, unknown> = {},
): Promise<BrowserUnderTest> {
  const profile = await mkdtemp(join(tmpdir(), 'millrace-firefox-'));
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: peerPath('firefox-esr'),
    headless: true,
    userDataDir: profile,
    extraPrefsFirefox: { ...FIREFOX_PREFERENCES, ...preferences },
  });
  return {
    name: 'firefox',
    async open(url) {
      const page: FirefoxPage = await browser.newPage();
      const console: string[] = [];
      page.on('console', (message) => console.push(message.text()));
      page.on('pageerror', (error) => console.push(String(error)));
      await page.goto(url);
      const ready = (): Promise<unknown> => page.waitForFunction('globalThis.tools !== undefined');
      await ready();
      return {
        console,
        run: (script, argument) => page.evaluate(callOf(script, argument)) as never,
        reload: async () => {
          await page.reload();
          await ready();
        },
        close: () => page.close(),
      };
    },
    protocol: () => Promise.reject(new Error('Firefox has no such protocol')),
    async close() {
      await browser.close();
      await rm(profile, { recursive: true, force: true, maxRetries: 3 });
    },
  };
}

function callOf(script: unknown, argument: unknown): string {
  // Run by tsx, functions are named by a helper of its own, which a page does not have.
  return `((__name) => (${String(script)})(globalThis.tools, ${JSON.stringify(argument) ?? 'undefined'}))((named) => named)`;
}
