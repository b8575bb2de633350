/**
 * Pages that come and go: two tabs and one disk, a reload in the middle of a job, a tab closed
 * while it writes.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare } from '../support/qemu.ts';
import type { BrowserUnderTest } from './browsers.ts';
import { startChromium, startFirefox } from './browsers.ts';
import { setScene } from './scene.ts';

const MIB = 1024 * 1024;
const BASE = makeContent('random', 12, 8 * MIB);

describeWithPeer(['chromium', 'qemu-img', 'qemu-curl'], 'tabs of Chromium', () =>
  tabs(startChromium),
);
describeWithPeer(['firefox-esr', 'qemu-img', 'qemu-curl'], 'tabs of Firefox', () =>
  tabs(startFirefox),
);

function tabs(start: () => Promise<BrowserUnderTest>): void {
  const scene = setScene(start);
  const left = (name: string): string => join(scene.site.left, name);

  beforeAll(() => writeFile(join(scene.site.images, 'base.raw'), BASE));

  it('gives a disk to one tab at a time, and to the one that waits when the first closes', async () => {
    const [first, second] = [await scene.tab(), await scene.tab()];
    await first.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'shared', size: 1024 * 1024 });
      await disk.write(0, new Uint8Array([1, 2, 3]));
      Object.assign(globalThis, { disk });
    });
    const busy = await second.run((tools) => tools.refusal(tools.openDisk({ overlay: 'shared' })));
    expect(busy).toMatchObject({
      name: 'MillraceError',
      code: 'EBUSY',
      message: expect.stringContaining(`'Test page' (${scene.site.origin}/`),
    });
    const given = await second.run(async (tools) => {
      const giveUp = new AbortController();
      const waiting = tools.refusal(
        tools.openDisk({ overlay: 'shared', whenBusy: 'wait', signal: giveUp.signal }),
      );
      giveUp.abort();
      return waiting;
    });
    expect(given).toMatchObject({ code: 'ABORTED' });
    await second.run(
      (tools) =>
        void Object.assign(globalThis, {
          later: tools.openDisk({ overlay: 'shared', whenBusy: 'wait' }),
        }),
    );
    await first.run(() =>
      (globalThis as unknown as { disk: { close(): Promise<void> } }).disk.close(),
    );
    const read = await second.run(async () => {
      const disk = await (
        globalThis as unknown as { later: Promise<import('../../hosts/api/disk.ts').Disk> }
      ).later;
      return [...(await disk.read(0, 4))];
    });
    expect(read).toEqual([1, 2, 3, 0]);
    // The tab that has it now is closed without a word.
    await first.run(
      (tools) =>
        void Object.assign(globalThis, {
          later: tools.openDisk({ overlay: 'shared', whenBusy: 'wait' }),
        }),
    );
    await second.close();
    await first.run(async () =>
      (
        await (globalThis as unknown as { later: Promise<import('../../hosts/api/disk.ts').Disk> })
          .later
      ).close(),
    );
  });

  it('takes up a job again after a reload', async () => {
    const tab = await scene.tab();
    await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'reloaded', base: '/images/base.raw' });
      await disk.write(5_000_000, new Uint8Array(1000).fill(9));
      await disk.flush();
      await disk.stream({ nonblock: true, speed: 2 * 1024 * 1024, onError: 'stop' });
      // The catalogue follows the job, so that it is right when the page is gone.
      const stored = async () =>
        (await tools.listDisks()).find((disk) => disk.name === 'reloaded')?.remaining;
      while ((await stored()) === disk.size)
        await new Promise((resolve) => disk.addEventListener('progress', resolve, { once: true }));
    });
    await tab.reload();
    const told = await tab.run(async (tools) => {
      const listed = (await tools.listDisks()).find((disk) => disk.name === 'reloaded');
      const disk = await tools.openDisk({ overlay: 'reloaded', resumeJob: true });
      const info = await disk.info();
      const ended = new Promise((resolve) => disk.addEventListener('completed', resolve));
      await disk.setSpeed(0);
      await ended;
      await tools.leave('reloaded.qcow2', await disk.exportQcow2());
      await disk.close();
      return {
        listed,
        info,
        after: (await tools.listDisks()).find((disk) => disk.name === 'reloaded'),
      };
    });
    expect(told.listed).toMatchObject({ job: { speed: 2 * MIB, onError: 'stop' } });
    expect(told.listed!.remaining).toBeLessThan(8 * MIB - 1000);
    expect(told.info).toMatchObject({ status: 1, speed: 2 * MIB });
    expect(told.after).toMatchObject({ remaining: 0 });
    expect(told.after?.job ?? undefined).toBeUndefined();
    await writeFile(left('content.raw'), BASE.slice().fill(9, 5_000_000, 5_001_000));
    expect(await check(left('reloaded.qcow2'))).toMatchObject({ exitCode: 0 });
    expect(
      await compare(left('reloaded.qcow2'), left('content.raw'), { formatB: 'raw' }),
    ).toMatchObject({ identical: true });
  });

  it('takes up a job only as far as a disk reaches that was shrunk since', async () => {
    const tab = await scene.tab();
    for (const overlay of ['reaching', 'behind'])
      await tab.run(async (tools, overlay) => {
        const MIB = 1024 * 1024;
        const disk = await tools.createDisk({ overlay, base: '/images/base.raw' });
        const offset = overlay === 'behind' ? 5 * MIB : 2 * MIB;
        await disk.stream({ offset, length: 3 * MIB, speed: 65536, nonblock: true });
        await disk.pause();
      }, overlay);
    await tab.reload();
    const told = await tab.run(async (tools) => {
      const told = [];
      for (const overlay of ['reaching', 'behind']) {
        const shrinking = await tools.openDisk({ overlay });
        await shrinking.resize(4 * 1024 * 1024, { shrink: true });
        await shrinking.close();
        const disk = await tools.openDisk({ overlay, resumeJob: true });
        told.push(await disk.info().catch(({ code }) => code));
        await disk.close();
      }
      return told;
    });
    expect(told).toEqual([
      expect.objectContaining({ status: 1, offset: 2 * MIB, length: 2 * MIB, paused: true }),
      'ENOENT',
    ]);
  });

  it('takes up a job that was paused as a paused one, which fetches nothing before it is resumed', async () => {
    const tab = await scene.tab();
    await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'resting', base: '/images/base.raw' });
      await disk.stream({ nonblock: true, speed: 1024 * 1024 });
      await disk.pause();
    });
    await tab.reload();
    const told = await tab.run(async (tools) => {
      const job = async () =>
        (await tools.listDisks()).find((disk) => disk.name === 'resting')?.job;
      const disk = await tools.openDisk({ overlay: 'resting', resumeJob: true });
      const [{ bytes }, { status, paused, speed }] = [await disk.traffic(), await disk.info()];
      await disk.pause();
      const fetched = (await disk.traffic()).bytes - bytes;
      const before = await job();
      await disk.resume();
      const after = await job();
      await disk.setSpeed(0);
      while ((await disk.info()).status === 1)
        await new Promise((resolve) => setTimeout(resolve, 10));
      const { remaining } = await disk.info();
      await disk.close();
      return {
        status,
        paused,
        speed,
        fetched,
        before: before?.paused,
        after: after?.paused ?? false,
        remaining,
      };
    });
    expect(told).toEqual({
      status: 1,
      paused: true,
      speed: MIB,
      fetched: 0,
      before: true,
      after: false,
      remaining: 0,
    });
  });

  it('keeps what was flushed, in a sound image, when a tab is closed in the middle of writing', async () => {
    const tab = await scene.tab();
    await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'closed', base: '/images/base.raw' });
      await disk.write(65536 * 3 + 100, new Uint8Array(200_000).fill(5));
      await disk.flush();
      // Goes on until the page is gone.
      const write = async (seed: number): Promise<void> => {
        await disk.write(
          4 * 1024 * 1024 + (seed % 300) * 10_000,
          new Uint8Array(9_000).fill(seed % 250),
        );
        void write(seed + 1);
      };
      for (let i = 0; i < 4; i++) void write(i);
      void disk.stream({ nonblock: true });
      await write(4);
    });
    await tab.close();
    const other = await scene.tab();
    const { report, data } = await other.run(async (tools) => {
      const disk = await tools.openDisk({ overlay: 'closed' });
      const data = await disk.read(65536 * 3, 300_000);
      await tools.leave('closed.qcow2', await disk.exportQcow2());
      const report = await disk.check();
      await disk.close();
      return { report, data: await tools.sha256(data) };
    });
    expect(report).toMatchObject({ corruptions: 0, leaks: 0 });
    const wanted = BASE.slice()
      .fill(5, 65536 * 3 + 100, 65536 * 3 + 200_100)
      .slice(65536 * 3, 65536 * 3 + 300_000);
    const digest = Buffer.from(await crypto.subtle.digest('SHA-256', wanted)).toString('hex');
    expect(data).toBe(digest);
    expect(await check(left('closed.qcow2'))).toMatchObject({ exitCode: 0 });
  });

  it('has all or nothing of a disk that was being taken in when its tab was closed', async () => {
    const tab = await scene.tab();
    await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'large', base: '/images/base.raw' });
      await disk.stream();
      await disk.close();
      const image = await tools.exportDisk('large');
      // What lies behind an image's last cluster is not looked at.
      const large = new Blob([image, ...Array.from({ length: 40 }, () => image)]);
      await new Promise<void>((begun, failed) => {
        tools
          .importDisk('half', large, { onProgress: (done) => done > 0 && begun() })
          .catch(failed);
      });
    });
    const other = await scene.tab();
    const files = (): Promise<string[]> =>
      other.run(async (tools) => {
        // Whoever lists the disks gives back the room of what nobody takes in any more.
        await tools.listDisks();
        const names: string[] = [];
        const folder = (await (
          await navigator.storage.getDirectory()
        ).getDirectoryHandle('millrace')) as unknown as { keys(): AsyncIterable<string> };
        for await (const name of folder.keys()) if (name.startsWith('half')) names.push(name);
        return names;
      });
    await files();
    await tab.close();
    // The browser gives the locks of a page back a moment after its end.
    while ((await files()).some((name) => name !== 'half.qcow2'))
      await new Promise((resolve) => setTimeout(resolve, 50));
    const corruptions = await other.run(async (tools) => {
      const there = (await tools.listDisks()).some(({ name }) => name === 'half');
      const retaken = there
        ? undefined
        : await tools.refusal(tools.importDisk('half', await tools.exportDisk('large')));
      return [retaken?.code, (await tools.checkDisk({ overlay: 'half' }))?.corruptions];
    });
    expect(corruptions).toEqual([undefined, 0]);
  });

  it('brings what the guest writes to storage by itself', async () => {
    const tab = await scene.tab();
    const found = await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'unflushed', size: 1024 * 1024 });
      await disk.write(1000, new TextEncoder().encode('written, and never flushed'));
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('millrace');
      const stored = async (): Promise<boolean> =>
        (await (await (await folder.getFileHandle('unflushed.qcow2')).getFile()).text()).includes(
          'written, and never flushed',
        );
      for (let i = 0; i < 100; i++) {
        // A file that changes under its reader cannot be read: another try will.
        if (await stored().catch(() => false)) break;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      const there = await stored();
      await disk.close();
      return there;
    });
    expect(found).toBe(true);
  });

  it('asks for a flush when the page is hidden or left, unless the disk is closed', async () => {
    const tab = await scene.tab();
    const asked = await tab.run(async (tools) => {
      let leaves = 0;
      const { postMessage } = Worker.prototype;
      Worker.prototype.postMessage = function (
        this: Worker,
        message: { path?: string[] },
        ...rest: unknown[]
      ) {
        if (message?.path?.at(-1) === 'leave') leaves++;
        return Reflect.apply(postMessage, this, [message, ...rest]);
      } as typeof postMessage;
      const disk = await tools.createDisk({ overlay: 'hidden', size: 1024 * 1024 });
      await disk.write(1000, new Uint8Array(100).fill(1));
      const counts = [leaves];
      let state = 'hidden';
      Object.defineProperty(document, 'visibilityState', { get: () => state });
      const count = (target: EventTarget, type: string) =>
        counts.push((target.dispatchEvent(new Event(type)), leaves));
      count(document, 'visibilitychange');
      state = 'visible';
      count(document, 'visibilitychange');
      count(window, 'pagehide');
      await disk.close();
      state = 'hidden';
      count(document, 'visibilitychange');
      count(window, 'pagehide');
      return counts;
    });
    expect(asked).toEqual([0, 1, 1, 2, 2, 2]);
  });

  it('has the catalogue up to date when the page is hidden', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const record = async () => (await tools.listDisks()).find((disk) => disk.name === 'seen');
      const disk = await tools.createDisk({ overlay: 'seen', base: '/images/base.raw' });
      await disk.write(0, new Uint8Array(1024 * 1024));
      const before = await record();
      Object.defineProperty(document, 'visibilityState', { get: () => 'hidden' });
      document.dispatchEvent(new Event('visibilitychange'));
      for (let i = 0; i < 100 && (await record())?.remaining === before?.remaining; i++)
        await new Promise((resolve) => setTimeout(resolve, 50));
      const after = await record();
      await disk.close();
      return { before, after };
    });
    expect([told.before?.remaining, told.after?.remaining]).toEqual([8 * MIB, 7 * MIB]);
  });

  it('keeps the state of a machine as long as its disk holds what it did', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const { createDisk, openDisk, listDisks, refusal } = tools;
      const textOf = async (overlay: string): Promise<string | undefined> => {
        const disk = await openDisk({ overlay });
        const state = await disk.savedState();
        await disk.close();
        return state?.text();
      };
      const disk = await createDisk({ overlay: 'paused', base: '/images/base.raw' });
      await disk.write(512, new Uint8Array([1, 2, 3]));
      const none = await disk.savedState();
      await disk.saveState(new Blob(['first']));
      await disk.saveState(new Blob(['second']));
      await disk.close();
      const kept = [await textOf('paused')];
      const streamed = await openDisk({ overlay: 'paused' });
      await streamed.stream();
      await streamed.close();
      await tools.renameDisk('paused', 'renamed');
      // The name is taken: nothing of that disk is touched.
      await refusal(createDisk({ overlay: 'renamed', size: 1024 * 1024 }));
      kept.push(await textOf('renamed'));
      const [record] = (await listDisks()).filter(({ name }) => name === 'renamed');
      const readOnly = await openDisk({ overlay: 'renamed', readOnly: true });
      const refused = await refusal(readOnly.saveState(new Blob(['third'])));
      await readOnly.close();
      const written = await openDisk({ overlay: 'renamed' });
      await written.write(0, new Uint8Array([4]));
      kept.push(await (await written.savedState())?.text());
      await written.close();
      kept.push(await textOf('renamed'));
      return { none, kept, refused, listed: record.state?.size };
    });
    expect(told).toEqual({
      kept: ['second', 'second', undefined, undefined],
      refused: expect.objectContaining({ code: 'EUNSUPPORTED' }),
      listed: expect.any(Number),
    });
  });

  it('refuses a state whose disk has changed by another way, and leaves none of a disk behind', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const { createDisk, openDisk, refusal } = tools;
      const root = await navigator.storage.getDirectory();
      const folder = await root.getDirectoryHandle('millrace');
      const write = async (
        name: string,
        keep: boolean,
        at: number,
        data: BlobPart,
      ): Promise<void> => {
        const handle = await folder.getFileHandle(name, { create: true });
        const stream = await handle.createWritable({ keepExistingData: keep });
        await stream.write({ type: 'write', position: at, data: new Blob([data]) });
        await stream.close();
      };
      const attempt = async (overlay: string): Promise<string | undefined> => {
        const disk = await openDisk({ overlay });
        const { code, message } = await refusal(disk.savedState());
        await disk.close();
        return `${code}: ${message.includes('held something else')}`;
      };
      const suspend = async (overlay: string): Promise<void> => {
        const disk = await openDisk({ overlay });
        await disk.saveState(new Blob(['state']));
        await disk.close();
      };
      await (await createDisk({ overlay: 'stale', size: 1024 * 1024 })).close();
      await suspend('stale');
      const state = await (await folder.getFileHandle('stale.qcow2.state')).getFile();
      const copy = await state.arrayBuffer();
      const disk = await openDisk({ overlay: 'stale' });
      await disk.write(0, new Uint8Array([4]));
      await disk.close();
      await write('stale.qcow2.state', false, 0, copy);
      const told = [await attempt('stale')];
      await suspend('stale');
      // What is written is the same, and the file's date is another.
      await new Promise((resolve) => setTimeout(resolve, 10));
      await write('stale.qcow2', true, 0, 'QFI\xfb'.slice(0, 3));
      told.push(await attempt('stale'));
      await suspend('stale');
      await tools.deleteDisk('stale');
      const names: string[] = [];
      for await (const name of folder.keys()) if (name.startsWith('stale')) names.push(name);
      return { told, names };
    });
    expect(told).toEqual({ told: ['ECHANGED: true', 'ECHANGED: true'], names: [] });
  });

  it('refuses a state after its disk was left open', async () => {
    const [first, second] = [await scene.tab(), await scene.tab()];
    await first.run(async (tools) => {
      const made = await tools.createDisk({ overlay: 'left', base: '/images/base.raw' });
      await made.saveState(new Blob(['state']));
      await made.close();
      const disk = await tools.openDisk({ overlay: 'left' });
      await disk.stream({ length: 1024 * 1024 });
      await disk.flush();
    });
    await first.close();
    const refused = await second.run(async (tools) => {
      const disk = await tools.openDisk({ overlay: 'left', whenBusy: 'wait' });
      return tools.refusal(disk.savedState());
    });
    expect(refused).toMatchObject({ code: 'ECHANGED' });
  });
}
