/**
 * The console in a real Chromium, as its users meet it: a Linux guest boots from a base behind a
 * slow link, lives through a reload, writes, is used by a phone, takes files and gives them, is
 * suspended, goes on without any server, and leaves as a file. With
 * MILLRACE_SCREENSHOTS set to a folder, each state is drawn there, at the width of a desktop and of
 * a phone, dark and light.
 */
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import axe from 'axe-core';
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { decodeProfile } from '../../hosts/profiles/format.ts';
import type { Site } from '../browser/site.ts';
import { makeContent } from '../fixtures/content.ts';
import type { Guest } from '../guest/guest.ts';
import { guestPeers, makeGuest } from '../guest/guest.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { peerPath } from '../support/peer.ts';
import { run } from '../support/run.ts';
import type { Browser, Images } from './site.ts';
import {
  boot,
  DESKTOP,
  disks,
  HALTED_BYTES,
  haltedImage,
  PHONE,
  serveConsole,
  serveGuest,
  startBrowser,
} from './site.ts';

const ROUND_TRIP_MS = 50;
const BITS_PER_SECOND = 200e6;
const BOOT_MS_MAX = 300_000;
const COMPLETE_MS_MAX = 120_000;
const NOTE = 'kept through everything';

describeWithPeer(
  [...guestPeers, 'chromium', 'seabios', 'nginx', 'qemu-img', 'debugfs', 'e2fsck'],
  'the console in Chromium',
  () => {
    let guest: Guest;
    let images: Images;
    let site: Site;
    let browser: Browser;
    let page: Page;
    let work: string;
    let serving = true;
    const complaints: string[] = [];

    beforeAll(async () => {
      work = await mkdtemp(join(tmpdir(), 'millrace-console-test-'));
      guest = await makeGuest();
      images = await serveGuest(guest, ROUND_TRIP_MS, BITS_PER_SECOND);
      site = await serveConsole({
        sample: { name: 'A small Debian', url: images.url, size: guest.size },
      });
      browser = await startBrowser();
      page = await browser.context.newPage();
      page.on('pageerror', (error) => complaints.push(String(error.stack)));
    }, BOOT_MS_MAX);

    afterAll(async () => {
      await browser.close();
      if (serving) await stopServers();
      await rm(work, { recursive: true });
    });

    async function stopServers(): Promise<void> {
      serving = false;
      await images.stop();
      await site.stop();
    }

    it(
      'says what a server must do that does not allow this page',
      async () => {
        await page.goto(`${site.origin}/`);
        await boot(page, images.closedUrl);
        await page
          .getByRole('alert')
          .getByText('does not let this page read the image')
          .waitFor({ timeout: COMPLETE_MS_MAX });
        await shoot(page, 'problem-cors');
        expect(await disks(page)).toEqual([]);
      },
      COMPLETE_MS_MAX,
    );

    it('refuses what is not an image, and keeps nothing of it', async () => {
      await writeFile(join(site.images, 'noise.raw'), makeContent('random', 5, 1024 * 1024));
      // A page and a script are told by their form; what has none does not boot.
      for (const [file, title] of [
        ['samples.json', 'This cannot be used as it is'],
        ['sw.js', 'This cannot be used as it is'],
        ['images/noise.raw', 'not a disk image that boots'],
      ]) {
        await page.goto(`${site.origin}/`);
        await boot(page, `${site.origin}/${file}`);
        await page.getByRole('alert').getByText(title).waitFor();
        await shoot(page, 'problem-image');
        expect(await disks(page)).toEqual([]);
      }
    });

    it(
      'says when there is no room, and goes on when there is',
      async () => {
        await writeFile(join(site.images, 'halted.raw'), haltedImage());
        await page.goto(`${site.origin}/`);
        const protocol = await browser.context.newCDPSession(page);
        const { usage } = await protocol.send('Storage.getUsageAndQuota', { origin: site.origin });
        await protocol.send('Storage.overrideQuotaForOrigin', {
          origin: site.origin,
          quotaSize: usage + HALTED_BYTES / 4,
        });
        await boot(page, `${site.origin}/images/halted.raw`);
        await page
          .getByRole('alert')
          .getByText('no room left in this browser')
          .waitFor({ timeout: COMPLETE_MS_MAX });
        await shoot(page, 'problem-room');
        await protocol.send('Storage.overrideQuotaForOrigin', { origin: site.origin });
        await page.getByRole('button', { name: 'Try again' }).click();
        await page.waitForFunction(
          () => document.getElementById('disk-pane')!.dataset.state === 'complete',
          undefined,
          { timeout: COMPLETE_MS_MAX },
        );
        await remove(page, 'halted');
      },
      COMPLETE_MS_MAX,
    );

    it(
      'saves what the machine has read as a boot profile, which the next boot finds',
      async () => {
        const image = haltedImage();
        await writeFile(join(site.images, 'halted.raw'), image);
        await page.goto(`${site.origin}/`);
        await boot(page, `${site.origin}/images/halted.raw`);
        const saved = await save(page, 'Save boot profile', join(work, 'halted.profile'));
        const profile = await decodeProfile(await readFile(saved));
        expect(profile.ranges[0].offset).toBe(0);
        expect(profile.diskSize).toBe(image.length);
        await writeFile(join(site.images, 'halted.raw.profile'), await readFile(saved));
        await remove(page, 'halted');
        const [response] = await Promise.all([
          page.context().waitForEvent('response', {
            predicate: (response) => response.url().endsWith('/images/halted.raw.profile'),
            timeout: COMPLETE_MS_MAX,
          }),
          boot(page, `${site.origin}/images/halted.raw`),
        ]);
        expect(response.ok()).toBe(true);
        await remove(page, 'halted');
      },
      COMPLETE_MS_MAX,
    );

    it(
      'says when the image is another one than the disk was made on, and keeps the disk',
      async () => {
        const image = haltedImage();
        await writeFile(join(site.images, 'halted.raw'), image);
        await page.goto(`${site.origin}/`);
        // Chosen before, so that it cannot be over before it is paused.
        await page
          .locator('.job-speed')
          .evaluate((select: HTMLSelectElement) => (select.value = String(256 * 1024)));
        await boot(page, `${site.origin}/images/halted.raw`);
        await job(page, 'Pause', 'paused: true');
        await writeFile(join(site.images, 'halted.raw'), image.subarray(0, image.length / 2));
        await page.getByRole('button', { name: 'Resume' }).click();
        await page
          .getByRole('alert')
          .getByText('another one now')
          .waitFor({ timeout: COMPLETE_MS_MAX });
        await page.reload();
        await page
          .getByRole('alert')
          .getByText('another one now')
          .waitFor({ timeout: COMPLETE_MS_MAX });
        await shoot(page, 'problem-changed');
        expect(await disks(page)).toEqual(['halted']);
        await remove(page, 'halted');
      },
      COMPLETE_MS_MAX,
    );

    it(
      'boots from the sample to a prompt while it streams, also after a reload, and keeps what the guest writes',
      async () => {
        await page.goto(`${site.origin}/help.html`);
        await shoot(page, 'help');
        await page.goto(`${site.origin}/`);
        await page.getByRole('button', { name: 'Boot a small Debian 160 MiB' }).waitFor();
        const weights = await page
          .locator('.sample > *')
          .evaluateAll((lines) => lines.map((line) => getComputedStyle(line).fontWeight));
        expect(weights).toEqual(['600', '400']);
        await shoot(page, 'first-visit');
        await page.getByRole('button', { name: 'Boot a small Debian 160 MiB' }).click();
        // So slowly that it cannot end before the longest boot has.
        await page.getByLabel('Speed').selectOption({ label: '256 KiB/s' });
        await page.getByText(/The machine starts: \d+ s, \d+.* read from its disk/).waitFor();
        await shoot(page, 'starting');
        await page.reload();
        // The job goes on with the speed that it was started with.
        await page.waitForFunction(
          () => document.querySelector('.job-info')!.textContent!.includes('status: 1 (ACTIVE)'),
          undefined,
          { timeout: BOOT_MS_MAX },
        );
        expect(await page.getByLabel('Speed').inputValue()).toBe(String(256 * 1024));
        await prompt(page);
        expect(await page.locator('#waiting').textContent()).toBe('');
        expect(await page.locator('#divider').getAttribute('aria-valuenow')).toBe('58');
        expect(await state(page)).toBe('active');
        await shoot(page, 'streaming');
        await job(page, 'Pause', 'paused: true');
        await shoot(page, 'paused');
        await job(page, 'Resume', 'paused: false');
        await job(page, 'Stop copying', 'reason: "aborted"');
        await shoot(page, 'aborted');
        await job(page, 'Copy the rest', 'status: 1 (ACTIVE)');
        // The keyboard stays with the job, and comes to the machine's screen and back to its serial
        // console.
        expect(await page.evaluate(() => document.activeElement!.className)).toBe('job-pause');
        await page.keyboard.press('F6');
        expect(await focus(page)).toBe('serial');
        await page.keyboard.press('F6');
        expect(await focus(page)).toBe('screen');
        await shell(page, `echo '${NOTE}' > /root/note; sync`);
        await page.getByText('All writes saved').waitFor();
        expect(await state(page)).toBe('active');
      },
      BOOT_MS_MAX,
    );

    it(
      'has the keys, the columns and the panes of a phone',
      async () => {
        const wide = await page
          .locator('.xterm-rows > div')
          .first()
          .evaluate((row) => row.clientWidth);
        await page.setViewportSize(PHONE);
        await page.waitForFunction(
          (wide) => document.querySelector('.xterm-rows > div')!.clientWidth < wide,
          wide,
        );
        await page.getByRole('button', { name: 'Fit: tell the shell' }).click();
        await shell(page, 'stty size', /^\d+ [345]\d$/m);
        await page.keyboard.type('sleep 1000\n');
        await page.getByRole('button', { name: 'Ctrl', exact: true }).click();
        await page.keyboard.type('c');
        expect(
          await page
            .getByRole('button', { name: 'Ctrl', exact: true })
            .getAttribute('aria-pressed'),
        ).toBe('false');
        await prompt(page);
        await page.keyboard.type('clear; echo $((40+2))-again\n');
        await shows(page, '42-again');
        await page.keyboard.type('clear\n');
        await page.waitForFunction(
          () => !document.querySelector('.xterm-rows')!.textContent!.includes('42-again'),
        );
        for (const name of ['Up', 'Up'])
          await page.getByRole('button', { name, exact: true }).click();
        await page.keyboard.press('Enter');
        await shows(page, '42-again');
        await page.getByRole('button', { name: 'Screen', exact: true }).click();
        expect(await page.locator('#serial').isVisible()).toBe(false);
        await shoot(page, 'screen');
        await page.setViewportSize(PHONE);
        await page.getByRole('button', { name: 'Serial console', exact: true }).click();
        await page.setViewportSize(DESKTOP);
        await shell(page, 'stty cols 80 rows 24');
      },
      COMPLETE_MS_MAX,
    );

    it(
      'copies and pastes, and takes files into the guest and out of it',
      async () => {
        await browser.context.grantPermissions(['clipboard-read', 'clipboard-write'], {
          origin: site.origin,
        });
        await page.evaluate(() => navigator.clipboard.writeText('clear; echo pasted-$((40+2))\r'));
        await page.locator('#serial-paste').click();
        await shows(page, 'pasted-42');
        await prompt(page);
        await page.locator('#serial-copy').click();
        await page.waitForFunction(async () =>
          (await navigator.clipboard.readText()).includes('pasted-42'),
        );
        const content = makeContent('random', 9, 10_001);
        await writeFile(join(work, "it's one.bin"), content);
        const [chooser] = await Promise.all([
          page.waitForEvent('filechooser'),
          page.getByRole('button', { name: 'Send a file…' }).click(),
        ]);
        await chooser.setFiles(join(work, "it's one.bin"));
        await page.getByRole('dialog').getByRole('button', { name: 'Send' }).click();
        await page.locator('#announcer').getByText("Sending it's one.bin: done.").waitFor();
        await shell(page, `md5sum "it's one.bin"`, createHash('md5').update(content).digest('hex'));
        const fetch = async (path: string): Promise<void> => {
          await page.getByRole('button', { name: 'Fetch a file…' }).click();
          await page.getByLabel('Path in the machine').fill(path);
          await page.keyboard.press('Enter');
        };
        const fetched = page.waitForEvent('download');
        await fetch("it's one.bin");
        expect(Buffer.compare(await readFile(await (await fetched).path()), content)).toBe(0);
        await fetch('/nowhere');
        await page.getByRole('alert').getByText('The file was not copied').waitFor();
        await page.getByRole('button', { name: 'Dismiss' }).click();
        await shell(page, 'cat /root/note', NOTE);
      },
      COMPLETE_MS_MAX,
    );

    it(
      'tells a second tab who has the disk, and lets it wait',
      async () => {
        const second = await browser.context.newPage();
        await second.goto(`${site.origin}/`);
        await second.getByRole('button', { name: 'Boot: A small Debian' }).click();
        await second.getByRole('alert').getByText('Another tab has this disk').waitFor();
        await shoot(second, 'problem-busy');
        await second.close();
      },
      COMPLETE_MS_MAX,
    );

    it(
      'becomes complete, is suspended, and then goes on without any server',
      async () => {
        await page.getByLabel('Speed').selectOption({ label: 'unlimited' });
        await page.waitForFunction(
          () => document.getElementById('disk-pane')!.dataset.state === 'complete',
          undefined,
          { timeout: COMPLETE_MS_MAX },
        );
        await shoot(page, 'complete');
        await page.waitForFunction(() =>
          navigator.serviceWorker.ready.then(({ active }) => active?.state === 'activated'),
        );
        await shell(page, 'marker=never-on-disk');
        await page.getByRole('button', { name: 'Suspend' }).click();
        await page
          .getByRole('button', { name: 'Continue: A small Debian' })
          .waitFor({ timeout: COMPLETE_MS_MAX });
        await shoot(page, 'suspended');
        await stopServers();
        await page.reload();
        await page.getByRole('button', { name: 'Continue: A small Debian' }).click();
        // The terminal shows what it showed, and the shell is the same one.
        await prompt(page);
        await shell(page, 'echo "it is $marker"', 'it is never-on-disk');
        await shell(
          page,
          'echo 3 > /proc/sys/vm/drop_caches; md5sum /data/blob.bin | cut -c1-32; grep -o "^.* data/blob.bin" /data/MD5SUMS',
          /([0-9a-f]{32})\s*\n\1 {2}data\/blob.bin/,
        );
        await shell(page, 'sync; mount -o remount,ro /');
        await page.getByText('All writes saved').waitFor();
      },
      BOOT_MS_MAX + COMPLETE_MS_MAX,
    );

    it(
      'exports the disk as qcow2 and raw, sound and with the guest’s file',
      async () => {
        await page.getByRole('button', { name: 'Switch off' }).click();
        await page.getByText('complete: boots without the network').waitFor();
        await shoot(page, 'second-visit');
        const qcow2 = await save(page, 'Export qcow2: A small Debian', join(work, 'guest.qcow2'));
        const raw = await save(page, 'Export raw: A small Debian', join(work, 'guest.raw'));
        await run('qemu-img', ['check', qcow2]);
        await run('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', qcow2, raw]);
        const information = JSON.parse(
          (await run('qemu-img', ['info', '--output=json', qcow2])).stdout,
        ) as Record<string, unknown>;
        expect(information['backing-filename']).toBeUndefined();
        const fileSystem = `${raw}?offset=${guest.fileSystemOffset}`;
        await run(peerPath('e2fsck'), ['-fn', fileSystem]);
        const debugfs = async (command: string): Promise<string> =>
          (await run(peerPath('debugfs'), ['-R', command, fileSystem])).stdout;
        expect(await debugfs('cat /root/note')).toBe(`${NOTE}\n`);
        const blob = join(work, 'blob.bin');
        await debugfs(`dump /data/blob.bin ${blob}`);
        expect(await debugfs('cat /data/MD5SUMS')).toContain(
          `${createHash('md5')
            .update(await readFile(blob))
            .digest('hex')}  data/blob.bin`,
        );
      },
      COMPLETE_MS_MAX,
    );

    it(
      'renames, imports and deletes disks',
      async () => {
        await page.getByRole('button', { name: 'Rename: A small Debian' }).click();
        await shoot(page, 'rename');
        await page.getByRole('dialog').getByLabel('Name').fill('kept');
        await page.keyboard.press('Enter');
        await page.getByRole('button', { name: 'Boot: kept' }).waitFor();
        expect(await page.evaluate(() => document.activeElement!.ariaLabel)).toBe('Rename: kept');
        await page.setInputFiles('#import', join(work, 'guest.qcow2'));
        await page.getByRole('button', { name: 'Boot: guest' }).waitFor();
        for (const name of ['kept', 'guest']) await remove(page, name);
        expect(await disks(page)).toEqual([]);
        expect(complaints).toEqual([]);
      },
      COMPLETE_MS_MAX,
    );
  },
);

/** Deletes a disk; a machine that has it is switched off first. */
async function remove(page: Page, name: string): Promise<void> {
  const off = page.getByRole('button', { name: 'Switch off' });
  if (await off.isVisible()) await off.click();
  await page.getByRole('button', { name: `Delete: ${name}` }).click();
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  await page.getByRole('button', { name: `Boot: ${name}` }).waitFor({ state: 'detached' });
}

/** Uses a button of the job, and waits until its info says so. */
async function job(page: Page, button: string, info: string): Promise<void> {
  await page.getByRole('button', { name: button }).click();
  await page.waitForFunction(
    (info) => document.querySelector('.job-info')!.textContent!.includes(info),
    info,
    { timeout: COMPLETE_MS_MAX },
  );
}

/** What has the focus, or holds what has it. */
function focus(page: Page): Promise<string | undefined> {
  return page.evaluate(() => document.activeElement?.closest('[id]')?.id);
}

function state(page: Page): Promise<string | undefined> {
  return page.locator('#disk-pane').evaluate((pane) => pane.dataset.state);
}

/** Waits until the shell on the serial console waits for a command. */
async function prompt(page: Page): Promise<void> {
  await page.waitForFunction(
    () => /guest:\S*#\s*$/.test(document.querySelector('.xterm-rows')?.textContent ?? ''),
    undefined,
    { timeout: BOOT_MS_MAX, polling: 500 },
  );
}

/** Waits until the serial console shows a text. */
async function shows(page: Page, text: string): Promise<void> {
  await page.waitForFunction(
    (text) => document.querySelector('.xterm-rows')?.textContent?.includes(text),
    text,
    { timeout: COMPLETE_MS_MAX, polling: 200 },
  );
}

let commands = 0;

/**
 * Types a command into the serial console, and waits for the next prompt; what the command says is
 * to hold `expected`.
 */
async function shell(page: Page, command: string, expected: string | RegExp = ''): Promise<void> {
  await page.locator('#serial textarea').focus();
  const number = ++commands;
  // What is typed shows as well: the sum is what only the shell says.
  await page.keyboard.type(`clear; ${command}; echo done-$((${number}+1000))\n`);
  await shows(page, `done-${number + 1000}`);
  const rows = await page.locator('.xterm-rows > div').allTextContents();
  const output = rows.map((row) => row.replaceAll('\u00a0', ' ').trimEnd()).join('\n');
  if (typeof expected === 'string') expect(output).toContain(expected);
  else expect(output).toMatch(expected);
  await prompt(page);
}

/** Clicks a button that saves a file, and keeps the file. */
async function save(page: Page, button: string, path: string): Promise<string> {
  const [download] = await Promise.all([
    page.waitForEvent('download', { timeout: COMPLETE_MS_MAX }),
    page.getByRole('button', { name: button }).click(),
  ]);
  await download.saveAs(path);
  return path;
}

/** The states that differ in what they are made of: axe finds nothing to object to. */
const JUDGED = [
  'help',
  'first-visit',
  'starting',
  'streaming',
  'screen',
  'suspended',
  'rename',
  'problem-cors',
];

async function shoot(page: Page, name: string): Promise<void> {
  const folder = process.env.MILLRACE_SCREENSHOTS;
  const isJudged = JUDGED.includes(name);
  if (!isJudged && !folder) return;
  if (isJudged) await page.evaluate(axe.source);
  for (const [kind, size] of Object.entries({ phone: PHONE, desktop: DESKTOP })) {
    await page.setViewportSize(size);
    // Two frames: the screens fit themselves to the new size in the first.
    await page.evaluate(
      () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))),
    );
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      const where = `${name}-${kind}-${colorScheme}`;
      if (isJudged) expect(await faultsOf(page), where).toEqual([]);
      if (folder)
        await page.screenshot({ path: join(folder, `${where}.png`), fullPage: kind === 'phone' });
    }
  }
}

/** What axe, which the page has already, finds. */
function faultsOf(page: Page): Promise<string[]> {
  return page.evaluate(async () => {
    const { axe } = globalThis as unknown as { axe: typeof import('axe-core') };
    const { violations } = await axe.run();
    return violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`);
  });
}
