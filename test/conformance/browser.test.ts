/** The conformance suite on the browser host, in Chromium and in Firefox. */
import { rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startChromium, startFirefox } from '../browser/browsers.ts';
import type { BrowserUnderTest, Tab } from '../browser/browsers.ts';
import { buildPage, serveSite } from '../browser/site.ts';
import type { Site } from '../browser/site.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { serveFixtures } from './server.ts';
import type { FixtureServer } from './server.ts';
import { cases } from './suite.ts';

let folder: string;
let site: Site;
let fixtures: FixtureServer;

beforeAll(async () => {
  folder = await buildPage(fileURLToPath(new URL('../browser/page', import.meta.url)));
  [site, fixtures] = await Promise.all([serveSite(folder), serveFixtures()]);
});

afterAll(async () => {
  await Promise.all([site.stop(), fixtures.stop(), rm(folder, { recursive: true })]);
});

function contract(start: () => Promise<BrowserUnderTest>): void {
  let browser: BrowserUnderTest;
  let tab: Tab;
  beforeAll(async () => {
    browser = await start();
    tab = await browser.open(`${site.origin}/`);
  });
  afterAll(() => browser.close());

  for (const { name } of cases) {
    it(name, async () => {
      const wrong = await tab.run((tools, { name, server }) => tools.runCase(name, server), { name, server: fixtures.origin });
      expect(wrong ?? undefined).toBeUndefined();
    });
  }
}

describeWithPeer(['chromium', 'qemu-img', 'qemu-io'], 'the contract in Chromium', () => contract(startChromium));
describeWithPeer(['firefox-esr', 'qemu-img', 'qemu-io'], 'the contract in Firefox', () => contract(startFirefox));
