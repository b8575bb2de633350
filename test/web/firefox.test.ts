/**
 * The console in Firefox: boots while the image streams, is suspended in the middle, and goes on
 * after a reload.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, Page } from 'puppeteer-core';
import puppeteer from 'puppeteer-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Site } from '../browser/site.ts';
import { guestPeers, makeGuest } from '../guest/guest.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { peerPath } from '../support/peer.ts';
import type { Images } from './site.ts';
import { DESKTOP, serveConsole, serveGuest } from './site.ts';

const ROUND_TRIP_MS = 50;
const BITS_PER_SECOND = 200e6;
const BOOT_MS_MAX = 400_000;

describeWithPeer(
  [...guestPeers, 'firefox-esr', 'seabios', 'nginx'],
  'the console in Firefox',
  () => {
    let images: Images;
    let site: Site;
    let profile: string;
    let browser: Browser;
    let page: Page;
    const complaints: string[] = [];

    beforeAll(async () => {
      const guest = await makeGuest();
      images = await serveGuest(guest, ROUND_TRIP_MS, BITS_PER_SECOND);
      site = await serveConsole({
        sample: { name: 'A small Debian', url: images.url, size: guest.size },
      });
      profile = await mkdtemp(join(tmpdir(), 'millrace-firefox-console-'));
      browser = await puppeteer.launch({
        browser: 'firefox',
        executablePath: peerPath('firefox-esr'),
        headless: true,
        userDataDir: profile,
        defaultViewport: DESKTOP,
      });
      page = await browser.newPage();
      page.on('pageerror', (error) => complaints.push(String((error as Error).stack)));
    }, BOOT_MS_MAX);

    afterAll(async () => {
      await browser.close();
      await site.stop();
      await images.stop();
      await rm(profile, { recursive: true, force: true, maxRetries: 3 });
    });

    it(
      'boots from the sample to a prompt while it streams',
      async () => {
        await page.goto(`${site.origin}/`);
        await page.locator('.sample').click();
        // So slowly that it cannot end before the longest boot has.
        await choose('256 KiB/s');
        await prompt();
        expect(await state()).toBe('active');
        await shell('echo kept > /root/note; sync; echo "$((40+2)) written"', '42 written');
        await page.waitForFunction(
          () => document.getElementById('saved')!.textContent === 'All writes saved',
        );
      },
      BOOT_MS_MAX,
    );

    it(
      'is suspended in the middle of the stream, and goes on after a reload',
      async () => {
        await shell('marker=never-on-disk; clear; echo "$((40+2)) set"', '42 set');
        await page.click('#suspend');
        const go = '[aria-label="Continue: A small Debian"]';
        await page.waitForSelector(go, { timeout: BOOT_MS_MAX });
        await page.reload();
        await page.waitForSelector(go);
        await page.click(go);
        await page.waitForFunction(
          () => document.querySelector('.job-info')!.textContent!.includes('status: 1 (ACTIVE)'),
          { timeout: BOOT_MS_MAX },
        );
        await choose('unlimited');
        await prompt();
        await shell('echo "still $(cat /root/note), $marker"', 'still kept, never-on-disk');
        await page.waitForFunction(
          () => document.getElementById('disk-pane')!.dataset.state === 'complete',
          { timeout: BOOT_MS_MAX },
        );
        expect(complaints).toEqual([]);
      },
      BOOT_MS_MAX,
    );

    async function choose(speed: string): Promise<void> {
      await page.waitForFunction(() => document.getElementById('console')!.hidden === false);
      await page.evaluate((speed) => {
        const select = document.querySelector('.job-speed') as HTMLSelectElement;
        select.value = [...select.options].find(({ label }) => label === speed)!.value;
        select.dispatchEvent(new Event('change'));
      }, speed);
    }

    function state(): Promise<string | undefined> {
      return page.evaluate(() => document.getElementById('disk-pane')!.dataset.state);
    }

    /** Waits until the shell on the serial console waits for a command. */
    async function prompt(): Promise<void> {
      await page.waitForFunction(
        () => /guest:\S*#\s*$/.test(document.querySelector('.xterm-rows')?.textContent ?? ''),
        { timeout: BOOT_MS_MAX, polling: 500 },
      );
    }

    /** Types a command into the serial console, and waits for what it says. */
    async function shell(command: string, expected: string): Promise<void> {
      await page.focus('#serial textarea');
      await page.keyboard.type(`clear; ${command}\n`);
      await page.waitForFunction(
        (text) =>
          document
            .querySelector('.xterm-rows')
            ?.textContent?.replaceAll('\u00a0', ' ')
            .includes(text),
        { timeout: BOOT_MS_MAX, polling: 200 },
        expected,
      );
    }
  },
);
