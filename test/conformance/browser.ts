/** Runs the conformance suite on the browser host, in a real browser. */
import { rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { BrowserUnderTest, Tab } from '../browser/browsers.ts';
import type { Site } from '../browser/site.ts';
import { buildPage, serveSite } from '../browser/site.ts';
import type { FixtureServer } from './server.ts';
import { serveFixtures } from './server.ts';
import { cases } from './suite.ts';

/** Every case as a test, in one tab of a browser. */
export function contractIn(start: () => Promise<BrowserUnderTest>): void {
  let folder: string;
  let site: Site;
  let fixtures: FixtureServer;
  let browser: BrowserUnderTest;
  let tab: Tab;

  beforeAll(async () => {
    folder = await buildPage(fileURLToPath(new URL('../browser/page', import.meta.url)));
    [site, fixtures, browser] = await Promise.all([serveSite(folder), serveFixtures(), start()]);
    tab = await browser.open(`${site.origin}/`);
  });

  afterAll(async () => {
    await browser.close();
    await Promise.all([site.stop(), fixtures.stop(), rm(folder, { recursive: true })]);
  });

  for (const { name } of cases) {
    it(name, async () => {
      const wrong = await tab.run((tools, { name, server }) => tools.runCase(name, server), {
        name,
        server: fixtures.origin,
      });
      expect(wrong ?? undefined).toBeUndefined();
    });
  }
}
