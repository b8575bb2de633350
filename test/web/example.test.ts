/** The example page: a Millrace disk in v86 by the adapter alone, without the console. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Site } from '../browser/site.ts';
import { guestPeers, makeGuest } from '../guest/guest.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { Browser } from './site.ts';
import { serveConsole, startBrowser } from './site.ts';

const BOOT_MS_MAX = 300_000;

describeWithPeer([...guestPeers, 'chromium', 'seabios'], 'the example page in Chromium', () => {
  let site: Site;
  let browser: Browser;

  beforeAll(async () => {
    site = await serveConsole({ beside: await makeGuest() });
    browser = await startBrowser();
  }, BOOT_MS_MAX);

  afterAll(async () => {
    await browser.close();
    await site.stop();
  });

  it(
    'boots the image beside it to a shell that answers, and keeps the disk',
    async () => {
      const page = await browser.context.newPage();
      const complaints: string[] = [];
      page.on('pageerror', (error) => complaints.push(String(error.stack)));
      const shows = (text: string): Promise<unknown> =>
        page.waitForFunction(
          (text) => document.getElementById('serial')!.textContent!.includes(text),
          text,
          { timeout: BOOT_MS_MAX, polling: 500 },
        );
      await page.goto(`${site.origin}/example.html`);
      await shows('GUEST-READY');
      await shows('# ');
      // What is typed shows as well: the sum is what only the shell says.
      await page.keyboard.type('echo sum-$((40+2))\n');
      await shows('sum-42');
      expect(
        await page.evaluate(
          async () =>
            (
              await navigator.storage
                .getDirectory()
                .then((root) => root.getDirectoryHandle('millrace'))
                .then((disks) => disks.getFileHandle('example.qcow2'))
            ).kind,
        ),
      ).toBe('file');
      expect(complaints).toEqual([]);
    },
    BOOT_MS_MAX,
  );
});
