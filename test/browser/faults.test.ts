/**
 * What goes wrong in browsers, in real ones: each fault has an error with a name, and nothing that
 * was flushed is lost.
 */

import { once } from 'node:events';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, it } from 'vitest';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare } from '../support/qemu.ts';
import type { Tab } from './browsers.ts';
import { startChromium, startFirefox } from './browsers.ts';
import type { Scene } from './scene.ts';
import { setScene } from './scene.ts';
import { serveSite } from './site.ts';

const MIB = 1024 * 1024;
const BASE = makeContent('random', 13, 24 * MIB);
/** What the site may use: more than one disk takes, and less than two. */
const QUOTA_BYTES = 48 * MIB;
const DIST = fileURLToPath(new URL('../../dist', import.meta.url));

describeWithPeer(['chromium', 'qemu-img'], 'faults in Chromium', () => {
  const scene = setScene(startChromium);
  const left = (name: string): string => join(scene.site.left, name);
  faults(scene, async (tab) => {
    await (await scene.browser.protocol(tab)).send('Storage.overrideQuotaForOrigin', {
      origin: scene.site.origin,
      quotaSize: QUOTA_BYTES,
    });
  });

  it('an ETag that is hidden from pages does not make the base another one, when an overlay moves between hosts', async () => {
    const shown = { etag: '"one"', size: MIB };
    const server = createServer((request, response) => {
      const headers = {
        'Access-Control-Allow-Origin': '*',
        'Access-Control-Allow-Headers': 'Range',
        'Access-Control-Expose-Headers': 'Content-Range',
        ETag: shown.etag,
        'Last-Modified': 'Tue, 03 Mar 2026 10:00:00 GMT',
      };
      const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
      if (first === undefined) return void response.writeHead(204, headers).end();
      const end = Math.min(Number(last) + 1, shown.size);
      response
        .writeHead(206, { ...headers, 'Content-Range': `bytes ${first}-${end - 1}/${shown.size}` })
        .end(BASE.subarray(Number(first), end));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}/moving.raw`;
    const [here, there] = [join(scene.site.images, 'moving.qcow2'), left('moved.qcow2')];
    try {
      const made = await createDisk({ overlay: here, base });
      await made.write(0, Uint8Array.of(1, 2, 3));
      await made.close();
      const tab = await scene.tab();
      const inPage = () =>
        tab.run(async (tools) =>
          tools.openDisk({ overlay: 'moved' }).then(
            async (disk) => {
              const data = await disk.read(0, 512 * 1024);
              await disk.close();
              await tools.leave('moved.qcow2', await tools.exportDisk('moved'));
              return { bytes: [...data.subarray(0, 4)] };
            },
            (error: Error & { code: string }) => ({ code: error.code, message: error.message }),
          ),
        );
      await tab.run(async (tools) =>
        tools.importDisk('moved', await (await fetch('/images/moving.qcow2')).blob()),
      );
      expect(await inPage()).toEqual({ bytes: [1, 2, 3, BASE[3]] });
      await (await openDisk({ overlay: there })).close();
      await tab.run(async (tools, base) => {
        const disk = await tools.createDisk({ overlay: 'made here', base });
        await disk.close();
        await tools.leave('made-here.qcow2', await tools.exportDisk('made here'));
      }, base);
      await (await openDisk({ overlay: left('made-here.qcow2') })).close();
      // What both hosts can tell still counts: the ETag for the one that sees it, the size for the
      // other.
      shown.etag = '"two"';
      await expect(openDisk({ overlay: there })).rejects.toMatchObject({
        code: 'ECHANGED',
        message: expect.stringContaining('"two"'),
      });
      shown.size = MIB - 512;
      expect(await inPage()).toMatchObject({
        code: 'ECHANGED',
        message: expect.stringContaining(`it had ${MIB} bytes`),
      });
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });

  // Firefox keeps the locks of what was cleared: a second tab gets EBUSY there.
  it('a tab whose disk was cleared is told so, though another has made one of that name since', async () => {
    const [old, other] = [await scene.tab(), await scene.tab()];
    await old.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'anew', size: 4 * 1024 * 1024 });
      await disk.write(0, new Uint8Array(100_000).fill(1));
      await disk.flush();
      await fetch('/clear');
      Object.assign(globalThis, { disk });
    });
    await other.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'anew', size: 8 * 1024 * 1024 });
      await disk.write(0, new Uint8Array(100_000).fill(2));
      await disk.flush();
      Object.assign(globalThis, { disk });
    });
    const told = await old.run(async (tools) => {
      const { disk } = globalThis as unknown as {
        disk: import('../../hosts/browser/api.ts').BrowserDisk;
      };
      await tools.refusal(disk.write(4096, new Uint8Array(10).fill(3)));
      const flush = await tools.refusal(disk.flush());
      return [
        flush,
        await tools.refusal(disk.write(0, new Uint8Array(10))),
        await tools.refusal(disk.close()),
      ];
    });
    const lost = {
      code: 'EIO',
      message: expect.stringContaining('the data of this site were cleared while it was open'),
    };
    expect(told).toMatchObject([lost, lost, lost]);
    const after = await other.run(async (tools) => {
      const { disk } = globalThis as unknown as {
        disk: import('../../hosts/browser/api.ts').BrowserDisk;
      };
      const data = await disk.read(4096, 1);
      await disk.close();
      return {
        data: [...data],
        listed: (await tools.listDisks()).find(({ name }) => name === 'anew')?.size,
      };
    });
    expect(after).toEqual({ data: [2], listed: 8 * MIB });
  });

  it('the built package runs from a plain server, even one that does not know wasm', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'millrace-static-'));
    await cp(DIST, join(folder, 'millrace'), { recursive: true });
    await writeFile(join(folder, 'index.html'), PLAIN_PAGE);
    const site = await serveSite(folder, { wasmType: 'application/octet-stream' });
    try {
      await writeFile(join(site.images, 'base.raw'), BASE.subarray(0, MIB));
      const tab = await scene.browser.open(`${site.origin}/`);
      const use = () =>
        tab.run(async (tools) =>
          tools.createDisk({ overlay: crypto.randomUUID(), base: '/images/base.raw' }).then(
            async (disk) => {
              const info = await disk.stream();
              await disk.close();
              return info;
            },
            (error: Error & { code: string }) => ({ code: error.code, message: error.message }),
          ),
        );
      expect(await use()).toMatchObject({ status: 0, remaining: 0, length: MIB });
      await tab.close();
    } finally {
      await site.stop();
      await rm(folder, { recursive: true });
    }
  });
});

describeWithPeer(['firefox-esr', 'qemu-img'], 'faults in Firefox', () => {
  // A site has a fifth of what this tells, in KiB.
  const scene = setScene(() =>
    startFirefox({ 'dom.quotaManager.temporaryStorage.fixedLimit': (5 * QUOTA_BYTES) / 1024 }),
  );
  faults(scene, async () => {});
});

/** `limit` holds the site of a tab to the quota, where it is not so from the start. */
function faults(scene: Scene, limit: (tab: Tab) => Promise<void>): void {
  const left = (name: string): string => join(scene.site.left, name);

  beforeAll(() => writeFile(join(scene.site.images, 'base.raw'), BASE));

  it('a full quota pauses the job, says how much is needed, and lets it go on when there is room', async () => {
    const tab = await scene.tab();
    await limit(tab);
    const paused = await tab.run(async (tools) => {
      const other = await tools.createDisk({ overlay: 'filler', size: 28 * 1024 * 1024 });
      for (let at = 0; at < other.size; at += 4 * 1024 * 1024)
        await other.write(at, new Uint8Array(4 * 1024 * 1024).fill(1));
      await other.close();
      const disk = await tools.createDisk({ overlay: 'full', base: '/images/base.raw' });
      const stopped = new Promise((resolve) =>
        disk.addEventListener('paused', ({ detail }) => resolve(detail)),
      );
      await disk.stream({ nonblock: true, onError: 'enospc' });
      const info = (await stopped) as import('../../hosts/api/job.ts').StreamInfo;
      const writes = () =>
        disk.write(disk.size - 4 * 1024 * 1024, new Uint8Array(4 * 1024 * 1024).fill(1));
      Object.assign(globalThis, { disk, writes });
      return { info, write: await tools.refusal(writes()) };
    });
    expect(paused.info).toMatchObject({
      status: 1,
      paused: true,
      error: {
        code: 'ENOSPC',
        message: expect.stringMatching(
          /no room for disk 'full'.*this site uses [\d.]+ MiB.* [\d.]+ MiB more are needed to populate the rest/,
        ),
      },
    });
    expect(paused.write).toMatchObject({ code: 'ENOSPC' });
    await tab.run(async (tools) => {
      const { disk, writes } = globalThis as unknown as {
        disk: import('../../hosts/browser/api.ts').BrowserDisk;
        writes: () => Promise<void>;
      };
      const ended = new Promise((resolve) => disk.addEventListener('completed', resolve));
      await tools.deleteDisk('filler');
      await disk.resume();
      // The write that was refused may have been done in part: the guest tries it again.
      await writes();
      await ended;
      await tools.leave('full.qcow2', await disk.exportQcow2());
      await disk.close();
      await tools.deleteDisk('full');
    });
    await writeFile(
      left('written.raw'),
      Buffer.concat([BASE.subarray(0, 20 * MIB), Buffer.alloc(4 * MIB, 1)]),
    );
    expect(await check(left('full.qcow2'))).toMatchObject({ exitCode: 0 });
    expect(
      await compare(left('full.qcow2'), left('written.raw'), { formatB: 'raw' }),
    ).toMatchObject({ identical: true });
  });

  it('a base that goes offline in the middle pauses the job, which goes on when it is back', async () => {
    const tab = await scene.tab();
    await tab.run(async (tools) => {
      const base = await tools.openHttp(new URL('/images/base.raw', location.href), { retries: 1 });
      const disk = await tools.createDisk({ overlay: 'offline', base, recordBase: base.name });
      const stopped = new Promise((resolve) =>
        disk.addEventListener('paused', ({ detail }) => resolve(detail)),
      );
      await disk.write(10, new Uint8Array([1, 2, 3]));
      await disk.flush();
      await disk.stream({ nonblock: true, onError: 'stop', speed: 4 * 1024 * 1024 });
      Object.assign(globalThis, { disk, stopped });
    });
    scene.site.offline(true);
    const info = await tab.run(
      () =>
        (
          globalThis as unknown as {
            stopped: Promise<import('../../hosts/api/job.ts').StreamInfo>;
          }
        ).stopped,
    );
    expect(info).toMatchObject({
      status: 1,
      paused: true,
      error: { code: 'EIO', message: expect.stringContaining('/images/base.raw') },
    });
    scene.site.offline(false);
    const end = await tab.run(async (tools) => {
      const { disk } = globalThis as unknown as {
        disk: import('../../hosts/browser/api.ts').BrowserDisk;
      };
      const ended = new Promise((resolve) =>
        disk.addEventListener('completed', ({ detail }) => resolve(detail)),
      );
      await disk.setSpeed(0);
      await disk.resume();
      const detail = (await ended) as import('../../hosts/api/job.ts').StreamInfo;
      await disk.close();
      await tools.leave('offline.qcow2', await tools.exportDisk('offline'));
      return detail;
    });
    expect(end).toMatchObject({ status: 0, remaining: 0 });
    await writeFile(
      left('content.raw'),
      Buffer.concat([BASE.subarray(0, 10), Uint8Array.of(1, 2, 3), BASE.subarray(13)]),
    );
    expect(await check(left('offline.qcow2'))).toMatchObject({ exitCode: 0 });
    expect(
      await compare(left('offline.qcow2'), left('content.raw'), { formatB: 'raw' }),
    ).toMatchObject({ identical: true });
  });

  it('a worker that dies rejects what is pending and what comes, and the disk opens again', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const workers: Worker[] = [];
      const RealWorker = globalThis.Worker;
      globalThis.Worker = class extends RealWorker {
        constructor(...args: ConstructorParameters<typeof Worker>) {
          super(...args);
          workers.push(this);
        }
      };
      const disk = await tools.createDisk({ overlay: 'dying', base: '/images/base.raw' });
      await disk.write(4096, new Uint8Array(4096).fill(4));
      await disk.flush();
      const pending = [
        tools.refusal(disk.stream({ speed: 1024 * 1024 })),
        tools.refusal(disk.read(20 * 1024 * 1024, 4 * 1024 * 1024)),
      ];
      workers[0].terminate();
      const rejected = await Promise.all(pending);
      const later = await tools.refusal(disk.info());
      const close = await tools.refusal(disk.close());
      const again = await tools.openDisk({ overlay: 'dying' });
      const report = await again.check();
      const data = await again.read(4095, 3);
      await again.close();
      return { rejected, later, close, report, data: [...data] };
    });
    const death = {
      name: 'MillraceError',
      code: 'EIO',
      message: expect.stringContaining("the worker of disk 'dying' has ended unexpectedly"),
    };
    expect(told.rejected).toMatchObject([death, death]);
    expect(told.later).toMatchObject(death);
    expect(told.close).toMatchObject(death);
    expect(told.report).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(told.data).toEqual([BASE[4095], 4, 4]);
  });

  it('a base that another origin does not allow is refused, with the header that is missing', async () => {
    const headers: Record<string, string> = { 'Access-Control-Allow-Headers': '*' };
    const server = createServer((request, response) => {
      if (request.method === 'OPTIONS') return void response.writeHead(204, headers).end();
      const ranged = request.headers.range !== undefined;
      response
        .writeHead(ranged ? 206 : 200, {
          ...headers,
          ...(ranged ? { 'Content-Range': 'bytes 0-511/512' } : {}),
          ETag: '"x"',
        })
        .end(new Uint8Array(512));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/disk.img`;
    try {
      const tab = await scene.tab();
      const refused = await tab.run(
        async (tools, base) => tools.refusal(tools.openHttp(base, { retries: 0 })),
        url,
      );
      expect(refused).toMatchObject({
        code: 'EIO',
        message: expect.stringMatching(
          /allows this page's origin|Access-Control-Allow-Origin|CORS/,
        ),
      });
      const known = await tab.run(
        async (tools, base) => tools.refusal(tools.createDisk({ overlay: 'cors', base })),
        url,
      );
      expect(known).toMatchObject({
        code: 'EACCES',
        message: expect.stringMatching(/must send Access-Control-Allow-Origin .*\(2 attempts/),
      });
      headers['Access-Control-Allow-Origin'] = '*';
      const hidden = await tab.run(
        async (tools, base) => tools.refusal(tools.createDisk({ overlay: 'cors', base })),
        url,
      );
      expect(hidden).toMatchObject({
        code: 'EUNSUPPORTED',
        message: expect.stringContaining('Access-Control-Expose-Headers: Content-Range, ETag'),
      });
      server.closeAllConnections();
      server.close();
      const down = await tab.run(
        async (tools, base) => tools.refusal(tools.openHttp(base, { retries: 1 })),
        url,
      );
      expect(down).toMatchObject({
        code: 'EIO',
        message: expect.stringMatching(
          /see that the server is up and allows this page's origin by CORS \(2 attempts/,
        ),
      });
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });

  it('storage that is cleared under a disk is told by name, and the page can start anew', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'cleared', size: 16 * 1024 * 1024 });
      await disk.write(0, new Uint8Array(100_000).fill(1));
      await disk.flush();
      await fetch('/clear');
      // Some browsers take the file away at once, others when it is closed.
      const write = await tools.refusal(
        disk.write(8 * 1024 * 1024, new Uint8Array(200_000).fill(2)),
      );
      const flush = await tools.refusal(disk.flush());
      const later = await tools.refusal(disk.write(0, new Uint8Array(10)));
      const saved = await disk.exportQcow2().catch(() => undefined);
      const close = await tools.refusal(disk.close());
      const gone = await tools.refusal(tools.openDisk({ overlay: 'cleared' }));
      const anew = await tools.createDisk({ overlay: 'cleared', size: 1024 * 1024 });
      await anew.close();
      return { write, flush, later, close, gone, saved: saved?.size };
    });
    const lost = {
      name: 'MillraceError',
      code: 'EIO',
      message: expect.stringContaining('the data of this site were cleared while it was open'),
    };
    expect(told).toMatchObject({ flush: lost, later: lost, close: lost, gone: { code: 'ENOENT' } });
    if (scene.browser.name === 'chromium') expect(told.saved).toBeGreaterThan(300_000);
    else
      expect(told.write).toMatchObject({
        code: 'EIO',
        message: expect.stringContaining('the storage of this site was cleared'),
      });
  });

  it('a file that something without locks has open is EBUSY, and opens when it is given back', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      await (await tools.createDisk({ overlay: 'taken', size: 1024 * 1024 })).close();
      const script = `onmessage = async () => {
        const root = await navigator.storage.getDirectory();
        const folder = await root.getDirectoryHandle('millrace');
        const handle = await (await folder.getFileHandle('taken.qcow2')).createSyncAccessHandle();
        onmessage = () => { handle.close(); postMessage('closed'); };
        postMessage('open');
      };`;
      const other = new Worker(
        URL.createObjectURL(new Blob([script], { type: 'text/javascript' })),
      );
      const answer = () =>
        new Promise((resolve) => {
          other.onmessage = resolve;
          other.postMessage('');
        });
      await answer();
      const busy = await tools.refusal(tools.openDisk({ overlay: 'taken' }));
      await answer();
      other.terminate();
      await (await tools.openDisk({ overlay: 'taken' })).close();
      return busy;
    });
    expect(told).toMatchObject({
      name: 'MillraceError',
      code: 'EBUSY',
      message: expect.stringContaining('in use by another program'),
    });
  });

  it('a page without storage has its disks in memory, and says so', async () => {
    const tab = await scene.browser.open(`http://insecure.test:${scene.site.port}/`);
    const told = await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'fleeting', base: '/images/base.raw' });
      await disk.write(5, new Uint8Array([1, 2, 3]));
      await disk.stream();
      const bytes = await disk.read(4, 5);
      const raw = await new Response(disk.readable()).arrayBuffer();
      const file = await tools.refusal(disk.exportQcow2());
      const report = await disk.check();
      await disk.close();
      return {
        persistent: disk.persistent,
        bytes: [...bytes],
        raw: raw.byteLength,
        file,
        report,
        list: await tools.listDisks(),
        again: await tools.refusal(tools.openDisk({ overlay: 'fleeting' })),
        removed: await tools.refusal(tools.deleteDisk('fleeting')),
      };
    });
    expect(told).toMatchObject({
      persistent: false,
      bytes: [BASE[4], 1, 2, 3, BASE[8]],
      raw: 24 * MIB,
      list: [],
    });
    expect(told.report).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(told.file).toMatchObject({ code: 'EUNSUPPORTED' });
    for (const refusal of [told.again, told.removed])
      expect(refusal).toMatchObject({
        code: 'ENOENT',
        message: expect.stringContaining('no storage'),
      });
    expect(tab.console.join('\n')).toMatch(/disk 'fleeting' is in memory/);
    await tab.close();
  });
}

const PLAIN_PAGE = `<!doctype html>
<title>Plain page</title>
<link rel="icon" href="data:,">
<script type="module">
  import * as tools from './millrace/browser/index.js';
  globalThis.tools = tools;
</script>
`;
