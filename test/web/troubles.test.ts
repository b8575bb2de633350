/**
 * The console where things go wrong around it, in a real Chromium with machines that run no system.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { cp, readdir, readFile, writeFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { Browser } from './site.ts';
import { boot, disks, HALTED_BYTES, haltedImage, serveConsole, startBrowser } from './site.ts';

const START_MS_MAX = 120_000;
/**
 * Waits for a key, and then writes a sector in each of 24 cylinders, which are farther from one
 * another than clusters are long.
 */
const WRITER = [
  0xb4,
  0x00,
  0xcd,
  0x16, // mov ah, 0; int 0x16
  0x31,
  0xc0,
  0x8e,
  0xc0,
  0xb9,
  0x01,
  0x20, // es = 0, cylinder 32, sector 1
  0xb8,
  0x01,
  0x03,
  0xbb,
  0x00,
  0x7c,
  0xba,
  0x80,
  0x00,
  0xcd,
  0x13, // write this sector there
  0x80,
  0xc5,
  0x01,
  0x80,
  0xfd,
  0x38,
  0x75,
  0xed, // the next cylinder, up to 56
];

/** As a server of images for pages of other origins. */
function answerRange(request: IncomingMessage, response: ServerResponse, image: Uint8Array): void {
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  const allow = {
    'Access-Control-Allow-Origin': '*',
    'Access-Control-Allow-Headers': 'Range',
    'Access-Control-Expose-Headers': 'Content-Range, ETag',
  };
  if (first === undefined) return void response.writeHead(204, allow).end();
  const end = Math.min(Number(last) + 1, image.length);
  response
    .writeHead(206, {
      ...allow,
      ETag: '"one"',
      'Content-Range': `bytes ${first}-${end - 1}/${image.length}`,
    })
    .end(image.subarray(Number(first), end));
}

describeWithPeer(['chromium', 'seabios'], 'troubles of the console in Chromium', () => {
  let site: Awaited<ReturnType<typeof serveConsole>>;
  let browser: Browser;
  let page: Page;
  const complaints: string[] = [];

  beforeAll(async () => {
    site = await serveConsole({ cleanAddresses: true });
    await writeFile(join(site.images, 'halted.raw'), haltedImage());
    await writeFile(join(site.images, 'writer.raw'), haltedImage(WRITER));
    browser = await startBrowser();
  }, START_MS_MAX);

  beforeEach(async () => {
    page = await browser.context.newPage();
    page.on('pageerror', (error) => complaints.push(String(error.stack)));
    await page.goto(`${site.origin}/`);
  });

  afterEach(() => page.close());

  afterAll(async () => {
    await browser.close();
    await site.stop();
    expect(complaints).toEqual([]);
  });

  const runs = (name: string): Promise<void> =>
    page.locator('#title').getByText(name, { exact: true }).waitFor();
  const told = (text: string): Promise<void> => page.getByRole('alert').getByText(text).waitFor();
  /** Of the browser's storage, to a quarter of an image more than is in use. */
  const limitRoom = async (): Promise<{ lift(): Promise<unknown> }> => {
    const protocol = await browser.context.newCDPSession(page);
    const { origin } = site;
    const { usage } = await protocol.send('Storage.getUsageAndQuota', { origin });
    await protocol.send('Storage.overrideQuotaForOrigin', {
      origin,
      quotaSize: usage + HALTED_BYTES / 4,
    });
    return { lift: () => protocol.send('Storage.overrideQuotaForOrigin', { origin }) };
  };
  const starts = (): Promise<void> =>
    page.locator('#screen').getByText('Booting from Hard Disk').waitFor();
  const key = async (): Promise<void> => {
    await starts();
    await page.locator('#screen').focus();
    await page.keyboard.press('Enter');
  };
  /** Until what the writer writes has been stored. */
  const allWritten = async (): Promise<void> => {
    await page.locator('.wrote').getByText('12.0 KiB', { exact: true }).waitFor();
    await page.getByText('All writes saved').waitFor();
  };
  /** Until the page opens without a network. */
  const offline = (): Promise<unknown> =>
    page.evaluate(() =>
      navigator.serviceWorker.ready.then(
        ({ active }) =>
          new Promise<void>((resolve) => {
            const look = (): void => void (active!.state === 'activated' && resolve());
            active!.onstatechange = look;
            look();
          }),
      ),
    );

  it('opens again from a server that sends its page on to another address, and keeps the page of another folder', async () => {
    const next = join(site.folder, 'next');
    for (const name of await readdir(site.folder))
      await cp(join(site.folder, name), join(next, name), { recursive: true });
    const worker = join(next, 'sw.js');
    await writeFile(
      worker,
      (await readFile(worker, 'utf8')).replace(/[0-9a-f]{12}/, 'fedcba987654'),
    );
    await offline();
    await page.goto(`${site.origin}/next/`);
    await offline();
    for (const folder of ['/', '/next/']) {
      await page.goto(site.origin + folder);
      await page.getByRole('heading', { name: 'Boot it now' }).waitFor();
    }
    expect(
      await page.evaluate(async () =>
        Promise.all(
          (await caches.keys()).map(
            async (name) => (await (await caches.open(name)).keys()).length > 5,
          ),
        ),
      ),
    ).toEqual([true, true]);
  });

  it('comes from its server where the browser cannot read what it has kept', async () => {
    await offline();
    const [worker] = browser.context
      .serviceWorkers()
      .filter((worker) => worker.url() === `${site.origin}/sw.js`);
    await worker.evaluate(() => {
      caches.open = () => Promise.reject(new Error('the storage is damaged'));
    });
    await page.goto(`${site.origin}/`);
    await page.getByRole('heading', { name: 'Boot it now' }).waitFor();
  });

  it(
    'gives up a disk whose base does not answer when the user goes back, and boots another meanwhile',
    async () => {
      let answer = (): void => {};
      const held = new Promise<void>((resolve) => (answer = resolve));
      const image = haltedImage();
      const server = createServer(async (request, response) => {
        await held;
        answerRange(request, response, image);
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      try {
        await boot(page, `http://127.0.0.1:${(server.address() as AddressInfo).port}/slow.raw`);
        await page.getByText('Opening slow …').waitFor();
        await page.getByRole('button', { name: 'Stop waiting' }).click();
        await page.locator('#boot-button:focus').waitFor();
        await boot(page, `${site.origin}/images/halted.raw`);
        await runs('halted');
        answer();
        await page.evaluate(async () => {
          // The disk comes to be, its worker ends, and it is deleted.
          const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle(
            'millrace',
          );
          const until = async (done: () => Promise<boolean>): Promise<void> => {
            while (!(await done())) await new Promise((resolve) => setTimeout(resolve, 10));
          };
          await until(
            async () =>
              (await navigator.locks.query()).held!.filter(({ name }) =>
                name?.startsWith('millrace/worker/'),
              ).length === 1,
          );
          await until(() =>
            folder.getFileHandle('slow.qcow2').then(
              () => false,
              () => true,
            ),
          );
        });
        await page.getByRole('button', { name: 'Switch off' }).click();
        await page.getByRole('button', { name: 'Boot: halted' }).waitFor();
        expect(await disks(page)).toEqual(['halted']);
      } finally {
        server.closeAllConnections();
        server.close();
      }
    },
    START_MS_MAX,
  );

  it('waits for another tab that has the disk, or gives that up', async () => {
    const other = await browser.context.newPage();
    await other.goto(`${site.origin}/#disk=halted`);
    await other.getByRole('button', { name: 'Switch off' }).waitFor();
    // Browsers slow down a page that nobody sees.
    await page.bringToFront();
    const wait = async (): Promise<void> => {
      await page.getByRole('button', { name: 'Boot: halted', exact: true }).click();
      await page.getByRole('button', { name: 'Wait for it' }).click();
      await page.getByText('Waiting until the other tab closes halted …').waitFor();
    };
    await wait();
    await page.getByRole('button', { name: 'Stop waiting' }).click();
    await wait();
    await other.getByRole('button', { name: 'Switch off' }).click();
    await runs('halted');
    await other.close();
  });

  it('follows an address that names a disk while it is open', async () => {
    await page.getByRole('button', { name: 'Boot: halted' }).waitFor();
    await page.evaluate(() => void (location.hash = '#disk=halted'));
    await runs('halted');
  });

  it('boots what a link names, and offers to continue with the disk that was made from it', async () => {
    const link = `${site.origin}/#image=${encodeURIComponent(`${site.origin}/images/halted.raw`)}`;
    const go = async (): Promise<void> => {
      await page.goto('about:blank');
      await page.goto(link);
      await page.getByRole('heading', { name: 'Continue with halted?' }).waitFor();
    };
    await go();
    await page.getByRole('button', { name: 'Continue', exact: true }).click();
    await runs('halted');
    await page.getByRole('button', { name: 'Share a link' }).click();
    expect(await page.getByRole('dialog').getByLabel('Link').inputValue()).toBe(link);
    await page.getByRole('button', { name: 'Done' }).click();
    await go();
    await page.getByRole('button', { name: 'Start afresh' }).click();
    await runs('halted 2');
    await page.getByRole('button', { name: 'Switch off' }).click();
    await page.getByRole('button', { name: 'Delete: halted 2' }).click();
    await page.getByRole('button', { name: 'Delete', exact: true }).click();
    await page.getByRole('button', { name: 'Boot: halted 2' }).waitFor({ state: 'detached' });
    await page.goto('about:blank');
    await page.goto(`${site.origin}/#image=http://[`);
    await told('That is not possible');
  });

  it(
    'saves a disk as it was, though it is at work again before the download has ended',
    async () => {
      await page
        .locator('.job-speed')
        .evaluate((select: HTMLSelectElement) => (select.value = String(2 * 1024 * 1024)));
      await boot(page, `${site.origin}/images/halted.raw?2`);
      const name = (await page
        .locator('#title')
        .getByText(/^halted/)
        .textContent())!;
      await page.getByRole('button', { name: 'Switch off' }).click();
      await page.evaluate(() => {
        const { createObjectURL } = URL;
        URL.createObjectURL = (blob: Blob) => {
          // v86 makes addresses of its own.
          if (blob.type === 'application/octet-stream' || blob.type.includes('qemu'))
            Object.assign(globalThis, { saved: blob });
          return createObjectURL(blob);
        };
      });
      const [download] = await Promise.all([
        page.waitForEvent('download'),
        page.getByRole('button', { name: `Export qcow2: ${name}` }).click(),
      ]);
      const file = await readFile(await download.path());
      await page.getByRole('button', { name: `Boot: ${name}` }).click();
      await page.locator('.job-speed').selectOption({ label: 'unlimited' });
      await page.locator('.left').getByText('complete').waitFor();
      const saved = await page.evaluate(async () => {
        const digest = await crypto.subtle.digest(
          'SHA-256',
          await (globalThis as unknown as { saved: Blob }).saved.arrayBuffer(),
        );
        return [...new Uint8Array(digest)]
          .map((byte) => byte.toString(16).padStart(2, '0'))
          .join('');
      });
      expect(saved).toBe(createHash('sha256').update(file).digest('hex'));
    },
    START_MS_MAX,
  );

  it(
    'saves as raw data a disk that needs the file it began with, once that is chosen',
    async () => {
      const path = join(site.folder, 'chosen.raw');
      await writeFile(path, haltedImage());
      await page
        .locator('.job-speed')
        .evaluate((select: HTMLSelectElement) => (select.value = String(256 * 1024)));
      await page.setInputFiles('#file', path);
      await runs('chosen');
      await page.getByRole('button', { name: 'Switch off' }).click();
      await page.getByRole('button', { name: 'Export raw: chosen' }).click();
      await told('The file that this disk began with is needed again');
      const [chooser] = await Promise.all([
        page.waitForEvent('filechooser'),
        page.getByRole('button', { name: 'Choose the file…' }).click(),
      ]);
      const [download] = await Promise.all([page.waitForEvent('download'), chooser.setFiles(path)]);
      expect(Buffer.compare(await readFile(await download.path()), haltedImage())).toBe(0);
    },
    START_MS_MAX,
  );

  it(
    'closes the disk of a machine that is switched off before v86 has been loaded',
    async () => {
      await page.addInitScript(() => {
        const { instantiate } = WebAssembly;
        const held = new Promise<void>((resolve) =>
          Object.assign(globalThis, { release: resolve }),
        );
        WebAssembly.instantiate = ((...source: Parameters<typeof instantiate>) =>
          held.then(() => Reflect.apply(instantiate, WebAssembly, source))) as typeof instantiate;
      });
      await page.reload();
      await writeFile(join(site.images, 'early.raw'), haltedImage());
      await boot(page, `${site.origin}/images/early.raw`);
      await runs('early');
      await page.locator('#screen').focus();
      await page.getByRole('button', { name: 'Switch off' }).click();
      await page.evaluate(() => (globalThis as unknown as { release(): void }).release());
      await page.getByRole('button', { name: 'Boot: early' }).click();
      await runs('early');
      await starts();
      expect(await page.getByRole('alert').isVisible()).toBe(false);
    },
    START_MS_MAX,
  );

  it(
    'boots a disk again that is still being closed',
    async () => {
      let asked = (): void => {};
      const hanging = new Promise<void>((resolve) => (asked = resolve));
      let hangs = false;
      const image = haltedImage();
      const server = createServer(async (request, response) => {
        if (request.headers.range && hangs) await (asked(), new Promise(() => {}));
        answerRange(request, response, image);
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      try {
        await page
          .locator('.job-speed')
          .evaluate((select: HTMLSelectElement) => (select.value = String(2 * 1024 * 1024)));
        await boot(page, `http://127.0.0.1:${(server.address() as AddressInfo).port}/closing.raw`);
        await runs('closing');
        hangs = true;
        await hanging;
        await page.evaluate(() => {
          const [title, titles] = [document.getElementById('title')!, [] as (string | null)[]];
          new MutationObserver(() => titles.push(title.textContent)).observe(title, {
            childList: true,
          });
          Object.assign(globalThis, { titles });
        });
        // What is under way is waited for, and then given up.
        await page.getByRole('button', { name: 'Switch off' }).click();
        await page.locator('#home').click();
        hangs = false;
        await page.getByRole('button', { name: 'Boot: closing' }).click();
        await runs('closing');
        expect(await page.getByRole('alert').isVisible()).toBe(false);
        expect(
          await page.evaluate(() => (globalThis as unknown as { titles: string[] }).titles),
        ).toContain('Switching off closing …');
        await page.getByRole('button', { name: 'Switch off' }).click();
        await page.getByRole('button', { name: 'Boot: closing' }).waitFor();
      } finally {
        server.closeAllConnections();
        server.close();
      }
    },
    START_MS_MAX,
  );

  it('takes images by every name, also compressed ones', async () => {
    const image = Buffer.from(haltedImage().subarray(0, 1024 * 1024));
    const long = '\u76d8'.repeat(80);
    const file = { name: `${long}.raw`, mimeType: '', buffer: image };
    await page.setInputFiles('#file', file);
    await runs('\u76d8'.repeat(22));
    await page.getByRole('button', { name: 'Switch off' }).click();
    const packed = { name: 'packed.raw.gz', mimeType: '', buffer: gzipSync(image) };
    await page.setInputFiles('#file', packed);
    await runs('packed.raw.gz');
    await page.getByRole('button', { name: 'Switch off' }).click();
    await boot(page, `${site.origin}/images/100%.raw`);
    await page.getByText('Opening 100% …').waitFor();
  });

  it('says that the disk\u2019s worker has ended, though the guest wants nothing', async () => {
    await boot(page, `${site.origin}/images/halted.raw?3`);
    await runs('halted 3');
    for (const worker of page.workers()) void worker.evaluate(() => self.close()).catch(() => {});
    await told('part of the page that has the disk has ended');
  });

  it(
    'still offers to try the job again when the guest\u2019s writes succeed again',
    async () => {
      const limit = await limitRoom();
      await boot(page, `${site.origin}/images/writer.raw`);
      await told('no room left in this browser');
      await key();
      // What the guest wrote has failed now, for which there is nothing to be tried.
      await page.getByRole('button', { name: 'Try again' }).waitFor({ state: 'detached' });
      // It stands still before its guest takes the disk for a broken one.
      const waiting = await page
        .locator('#title')
        .getByText(/^writer.* waits for its disk$/)
        .textContent();
      await limit.lift();
      await page.getByText('All writes saved').waitFor();
      await runs(waiting!.replace(' waits for its disk', ''));
      await page.getByRole('button', { name: 'Try again' }).click();
      await page.locator('.left').getByText('complete').waitFor();
    },
    START_MS_MAX,
  );

  it(
    'says so when it is switched off with writes that could not be stored',
    async () => {
      const limit = await limitRoom();
      await boot(page, `${site.origin}/images/writer.raw?2`);
      await told('no room left in this browser');
      await key();
      await page.getByRole('button', { name: 'Try again' }).waitFor({ state: 'detached' });
      await page.getByText('Saving\u2026').waitFor();
      await page.getByRole('button', { name: 'Switch off' }).click();
      await told('Not all that the machine wrote was saved');
      await limit.lift();
    },
    START_MS_MAX,
  );

  it(
    'has what the machine wrote after a reload, though nobody has closed its disk',
    async () => {
      await boot(page, `${site.origin}/images/writer.raw?4`);
      await key();
      await allWritten();
      const name = (await page.locator('#title').textContent())!;
      await page.reload();
      await starts();
      await page.getByRole('button', { name: 'Switch off' }).click();
      const [download] = await Promise.all([
        page.waitForEvent('download'),
        page.getByRole('button', { name: `Export raw: ${name}` }).click(),
      ]);
      const disk = await readFile(await download.path());
      let copies = 0;
      for (let at = 512; at < disk.length; at += 512)
        if (disk.compare(disk, 0, 512, at, at + 512) === 0) copies++;
      expect(copies).toBe(24);
    },
    START_MS_MAX,
  );

  it(
    'says that the storage of a disk was cleared, and what can be done yet',
    async () => {
      await boot(page, `${site.origin}/images/writer.raw?3`);
      await starts();
      await page.evaluate(() => fetch('clear'));
      await key();
      await told('has cleared the storage of this disk');
    },
    START_MS_MAX,
  );

  it(
    'suspends a machine, and refuses to go on when its disk has changed since, by name',
    async () => {
      // Its storage was cleared.
      await boot(page, `${site.origin}/images/writer.raw`);
      await starts();
      await page.getByRole('button', { name: 'Suspend' }).click();
      await page.getByRole('button', { name: 'Continue: writer' }).click();
      await runs('writer');
      await page.locator('#screen').getByText('Booting from Hard Disk').waitFor();
      await page.getByRole('button', { name: 'Suspend' }).click();
      await page.getByRole('button', { name: 'Continue: writer' }).waitFor();
      const kept = (what: 'aside' | 'back'): Promise<void> =>
        page.evaluate(async (what) => {
          const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle(
            'millrace',
          );
          const [from, to] = what === 'aside' ? ['state', 'aside'] : ['aside', 'state'];
          const file = await (await folder.getFileHandle(`writer.qcow2.${from}`)).getFile();
          const copy = await folder.getFileHandle(`writer.qcow2.${to}`, { create: true });
          await file.stream().pipeTo(await copy.createWritable());
        }, what);
      await kept('aside');
      // Of half of a state, nothing can be made.
      await page.evaluate(async () => {
        const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle(
          'millrace',
        );
        const handle = await folder.getFileHandle('writer.qcow2.state');
        const { size } = await handle.getFile();
        const file = await handle.createWritable({ keepExistingData: true });
        await file.truncate(Math.floor(size / 2));
        await file.close();
      });
      await page.getByRole('button', { name: 'Continue: writer' }).click();
      await told('cannot go on from its saved state');
      await page.getByRole('button', { name: 'Boot: writer' }).click();
      await page.getByRole('dialog').getByRole('button', { name: 'Boot', exact: true }).click();
      await key();
      await allWritten();
      await page.getByRole('button', { name: 'Switch off' }).click();
      await page.getByRole('button', { name: 'Boot: writer' }).waitFor();
      expect(await page.getByRole('button', { name: 'Continue: writer' }).count()).toBe(0);
      await kept('back');
      await page.reload();
      await page.getByRole('button', { name: 'Continue: writer' }).click();
      await told('cannot go on from where it was suspended');
      await page.getByRole('button', { name: 'Boot it' }).click();
      await runs('writer');
      await starts();
    },
    START_MS_MAX,
  );

  it('gives the room to what the machine uses, and to what the user wants, and starts again by Ctrl-Alt-Del', async () => {
    // int 0x10 with ax = 0x13: graphics.
    await writeFile(join(site.images, 'graphic.raw'), haltedImage([0xb8, 0x13, 0x00, 0xcd, 0x10]));
    await boot(page, `${site.origin}/images/graphic.raw`);
    await page.waitForFunction(() => document.getElementById('divider')!.ariaValueNow === '42');
    expect(await page.locator('#console').getAttribute('data-shown')).toBe('screen');
    await page.getByRole('button', { name: 'Switch off' }).click();
    await boot(page, `${site.origin}/images/halted.raw`);
    await starts();
    await page.evaluate(() => {
      for (const row of document.querySelector('#screen > div')!.children) row.textContent = '';
    });
    await page.getByRole('button', { name: 'Ctrl-Alt-Del' }).click();
    await starts();
    const divider = page.getByRole('separator', { name: 'Between serial console and screen' });
    await divider.focus();
    await page.keyboard.press('ArrowLeft');
    expect(await divider.getAttribute('aria-valuenow')).toBe('45');
    const [place, console] = [
      await divider.boundingBox(),
      await page.locator('#console').boundingBox(),
    ];
    await page.mouse.move(place!.x + 2, place!.y + 40);
    await page.mouse.down();
    await page.mouse.move(console!.x + console!.width * 0.7, place!.y + 40);
    await page.mouse.up();
    expect(await divider.getAttribute('aria-valuenow')).toBe('70');
    await page.locator('#serial-full').click();
    await page.waitForFunction(() => document.fullscreenElement?.id === 'serial-pane');
    await page.evaluate(() => document.exitFullscreen());
    await page.reload();
    await page.waitForFunction(() => document.getElementById('divider')!.ariaValueNow === '70');
  });
});
