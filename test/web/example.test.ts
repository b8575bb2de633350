/**
 * The example page: a Millrace disk in v86 by the adapter alone, without the console. The machine's
 * only program is in its boot record: what a whole system does is the console's to try.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { Browser } from './site.ts';
import { haltedImage, serveConsole, startBrowser } from './site.ts';

const BOOT_MS_MAX = 120_000;
/** Says READY on the first serial port, and answers each letter with the same in the other case. */
const ECHO = [
  [0xba, 0xf8, 0x03], // mov dx, 0x3f8
  ...[...'READY'].map((letter) => [0xb0, letter.charCodeAt(0), 0xee]), // mov al, LETTER; out dx, al
  [0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb], // wait until a byte has come
  [0xba, 0xf8, 0x03, 0xec, 0x34, 0x20, 0xee], // in al, dx; xor al, 32; out dx, al
  [0xeb, 0xef], // again
].flat();

describeWithPeer(['chromium', 'seabios'], 'the example page in Chromium', () => {
  let site: Awaited<ReturnType<typeof serveConsole>>;
  let browser: Browser;

  beforeAll(async () => {
    site = await serveConsole();
    await writeFile(join(site.folder, 'guest.raw'), haltedImage(ECHO));
    browser = await startBrowser();
  }, BOOT_MS_MAX);

  afterAll(async () => {
    await browser.close();
    await site.stop();
  });

  it(
    'boots the image beside it, takes keys to its serial port, and keeps the disk',
    async () => {
      const page = await browser.context.newPage();
      const complaints: string[] = [];
      page.on('pageerror', (error) => complaints.push(String(error.stack)));
      const shows = (text: string): Promise<unknown> =>
        page.waitForFunction(
          (text) => document.getElementById('serial')!.textContent!.includes(text),
          text,
          { timeout: BOOT_MS_MAX },
        );
      await page.goto(`${site.origin}/example.html`);
      await shows('READY');
      await page.keyboard.type('typed');
      await shows('TYPED');
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
