/**
 * The page that `millrace serve` answers at `/`, in Chromium and Firefox: as the program serves it,
 * under its own policy, with tokens and with mistakes.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import axe from 'axe-core';
import type { Browser, Page } from 'puppeteer-core';
import puppeteer from 'puppeteer-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CHROMIUM_FLAGS } from '../browser/browsers.ts';
import type { Started } from '../cli/program.ts';
import { millrace, startMillrace } from '../cli/program.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { peerPath } from '../support/peer.ts';
import { DESKTOP, PHONE } from './site.ts';

const MIB = 1024 * 1024;
const BASE_BYTES = 8 * MIB;
const TOKEN = 'correct-horse';

const BROWSERS = {
  chromium: { browser: 'chrome', args: [...CHROMIUM_FLAGS] },
  'firefox-esr': { browser: 'firefox', args: [] },
} as const;

for (const [name, { browser: kind, args }] of Object.entries(BROWSERS))
  describeWithPeer([name as keyof typeof BROWSERS], `the page of millrace serve in ${name}`, () => {
    let folder: string;
    let browser: Browser;
    let page: Page;
    const complaints: string[] = [];
    const asked = new Set<string>();

    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'millrace-served-'));
      await writeFile(join(folder, 'token'), `${TOKEN}\n`);
      await writeFile(join(folder, 'base.raw'), makeContent('random', 5, BASE_BYTES));
      for (const overlay of ['one.qcow2', 'two.qcow2'])
        await millrace(['create', overlay, '--base', 'base.raw'], { cwd: folder });
      await mkdir(join(folder, 'profile'));
      browser = await puppeteer.launch({
        browser: kind,
        executablePath: peerPath(name as keyof typeof BROWSERS),
        headless: true,
        userDataDir: join(folder, 'profile'),
        defaultViewport: DESKTOP,
        args: [...args],
      });
      page = await browser.newPage();
      page.on('pageerror', (error) => complaints.push(String(error)));
      page.on('request', (request) => {
        // The page's own icon is in it.
        if (!request.url().startsWith('data:')) asked.add(new URL(request.url()).origin);
      });
    });

    afterAll(async () => {
      await browser.close();
      await rm(folder, { recursive: true, force: true, maxRetries: 3 });
    });

    async function serve(...more: string[]): Promise<{ url: string; server: Started }> {
      const server = startMillrace(['serve', ...more], { cwd: folder });
      await server.until('stderr', /for people: \S+/);
      return { url: /for people: (\S+)/.exec(server.output.stderr)![1], server };
    }

    async function stop(server: Started): Promise<void> {
      server.child.kill('SIGTERM');
      expect(await server.ended).toMatchObject({ exitCode: 143 });
    }

    const shows = (text: string): Promise<unknown> =>
      page.waitForFunction(
        // biome-ignore lint/performance/useDomNodeTextContent: what is hidden does not count.
        (text) => document.body.innerText.includes(text),
        {},
        text,
      );
    const says = (title: string): Promise<unknown> =>
      page.waitForFunction(
        (title) => document.querySelector('#problem:not([hidden]) h2')?.textContent === title,
        {},
        title,
      );
    const press = (device: string, button: string): Promise<void> =>
      page.locator(`section[aria-label=${device}] .job-${button}`).click();
    const until = (device: string, state: string, info: string): Promise<unknown> =>
      page.waitForFunction(
        (device, state, info) => {
          const panel = document.querySelector<HTMLElement>(`section[aria-label=${device}]`);
          return (
            panel?.dataset.state === state &&
            panel.querySelector('.job-info')!.textContent!.includes(info)
          );
        },
        {},
        device,
        state,
        info,
      );
    const choose = (speed: string): Promise<unknown> =>
      page.select('section[aria-label=vda] .job-speed', speed);

    /** What axe finds wrong with the page as it is. */
    async function faults(): Promise<string[]> {
      if (kind !== 'chrome') return [];
      await page.evaluate(axe.source);
      return page.evaluate(async () => {
        const { violations } = await (
          globalThis as unknown as { axe: typeof import('axe-core') }
        ).axe.run();
        return violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`);
      });
    }

    async function shoot(state: string): Promise<void> {
      const shots = process.env.MILLRACE_SCREENSHOTS;
      for (const scheme of ['dark', 'light'])
        for (const [width, size] of Object.entries({ phone: PHONE, desktop: DESKTOP })) {
          if (kind !== 'chrome') continue;
          await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
          await page.setViewport(size);
          expect(await faults(), `${state}, ${width}, ${scheme}`).toEqual([]);
          if (shots)
            await page.screenshot({ path: `${shots}/served-${state}-${width}-${scheme}.png` });
        }
      await page.setViewport(DESKTOP);
    }

    it('copies, pauses, goes on, stops, and is at its end, while the map shows it', async () => {
      const { url, server } = await serve('one.qcow2', 'two.qcow2', '--listen', '0');
      await page.goto(url);
      await shows('vdb · 8.0 MiB');
      await until('vda', 'idle', 'nothing has been copied');
      await choose(String(256 * 1024));
      await press('vda', 'start');
      await until('vda', 'active', 'speed: 262144');
      await shoot('active');
      await press('vda', 'pause');
      await until('vda', 'idle', 'paused: true');
      await press('vda', 'resume');
      await until('vda', 'active', 'paused: false');
      await press('vda', 'abort');
      await until('vda', 'idle', 'reason: "aborted"');
      await press('vda', 'start');
      await until('vda', 'active', 'ACTIVE');
      await choose('0');
      await until('vda', 'complete', 'COMPLETED');
      await page.waitForFunction(() =>
        document
          .querySelector('section[aria-label=vda] canvas')!
          .ariaLabel!.startsWith('Map of the disk: 100 % of 8.0 MiB is copied'),
      );
      await until('vdb', 'idle', 'nothing has been copied');
      await shoot('complete');
      expect([...asked]).toEqual([new URL(url).origin]);
      await stop(server);
      expect(complaints).toEqual([]);
    });

    it('runs nothing but its own script, and asks nobody else', async () => {
      const { url, server } = await serve('one.qcow2', '--listen', '0');
      await page.goto(url);
      await shows('vda · 8.0 MiB');
      const elsewhere = url.replace('127.0.0.1', 'localhost');
      expect(
        await page.evaluate(async (elsewhere) => {
          try {
            const script = document.createElement('script');
            script.textContent = 'globalThis.foreign = true';
            document.body.append(script);
          } catch {
            // Where the browser knows Trusted Types.
          }
          const image = new Image();
          const shown = new Promise((resolve) => {
            image.onload = () => resolve('shown');
            image.onerror = () => resolve('refused');
          });
          image.src = `${elsewhere}/disks`;
          const fetched = await fetch(`${elsewhere}/disks`).then(
            () => 'fetched',
            () => 'refused',
          );
          return ['foreign' in globalThis, await shown, fetched];
        }, elsewhere),
      ).toEqual([false, 'refused', 'refused']);
      await stop(server);
    });

    it('asks for the token, refuses a wrong one, and keeps the right one for the tab', async () => {
      const { url, server } = await serve('two.qcow2', '--listen', '0', '--token-file', 'token');
      await page.goto(url);
      const enter = async (token: string): Promise<void> => {
        await page.locator('#enter:not([hidden]) #token').fill(token);
        await page.keyboard.press('Enter');
      };
      await enter('wrong');
      await shows('That is not the token of this server.');
      await shoot('token');
      await enter(TOKEN);
      await shows('vda · 8.0 MiB');
      await page.reload();
      await shows('vda · 8.0 MiB');
      await page.locator('#leave').click();
      await shows('This server asks for its token');
      await page.reload();
      await shows('This server asks for its token');
      await enter(TOKEN);
      await shows('vda · 8.0 MiB');
      await stop(server);
    });

    it('says that a disk is read-only, that the server has gone, and when it is back', async () => {
      const { url, server } = await serve('two.qcow2', '--listen', '0', '--read-only');
      await page.goto(url);
      await page.evaluate(() => sessionStorage.clear());
      await until('vda', 'idle', 'nothing has been copied');
      await press('vda', 'start');
      await says('vda: The disk is served read-only');
      await shoot('read-only');
      await stop(server);
      await says('vda: The server does not answer');
      const again = await serve('two.qcow2', '--listen', new URL(url).port);
      await page.waitForSelector('#problem[hidden]');
      await press('vda', 'start');
      await until('vda', 'complete', 'COMPLETED');
      await stop(again.server);
      // Firefox tells of what the policy has refused as if the page had failed.
      expect(complaints.filter((text) => !text.includes('Content-Security-Policy'))).toEqual([]);
    });
  });
