/**
 * What every browser test needs: the built page, a site that serves it, a browser, and tabs that
 * are closed after each test.
 */
import { rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll } from 'vitest';
import type { BrowserUnderTest, Tab } from './browsers.ts';
import type { Site } from './site.ts';
import { buildPage, serveSite } from './site.ts';

export interface Scene {
  readonly site: Site;
  readonly browser: BrowserUnderTest;
  /** A new tab with the test page. */
  tab(): Promise<Tab>;
}

/** Sets the scene for the tests of the `describe` that it is called in. */
export function setScene(start: () => Promise<BrowserUnderTest>): Scene {
  let folder: string;
  let site: Site;
  let browser: BrowserUnderTest;
  const tabs: Tab[] = [];

  beforeAll(async () => {
    folder = await buildPage(fileURLToPath(new URL('page', import.meta.url)));
    [site, browser] = await Promise.all([serveSite(folder), start()]);
  });

  afterEach(async () => {
    site.offline(false);
    // One that a test has closed itself is no error.
    await Promise.all(tabs.splice(0).map((tab) => tab.close().catch(() => {})));
  });

  afterAll(async () => {
    await browser.close();
    await Promise.all([site.stop(), rm(folder, { recursive: true })]);
  });

  return {
    get site() {
      return site;
    },
    get browser() {
      return browser;
    },
    async tab() {
      const tab = await browser.open(`${site.origin}/`);
      tabs.push(tab);
      return tab;
    },
  };
}
