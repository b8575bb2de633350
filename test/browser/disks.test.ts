/**
 * Disks in a browser's own storage: streamed, exported and judged by qemu-img, listed and taken in,
 * over every kind of base.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, convertImage, info, qemuImg } from '../support/qemu.ts';
import type { BrowserUnderTest } from './browsers.ts';
import { startChromium, startFirefox } from './browsers.ts';
import { setScene } from './scene.ts';

const MIB = 1024 * 1024;
const BASE = makeContent('text', 11, 6 * MIB);

describeWithPeer(['chromium', 'qemu-img', 'qemu-curl'], 'disks in Chromium', () =>
  disks(startChromium),
);
describeWithPeer(['firefox-esr', 'qemu-img', 'qemu-curl'], 'disks in Firefox', () =>
  disks(startFirefox),
);

function disks(start: () => Promise<BrowserUnderTest>): void {
  const scene = setScene(start);
  const left = (name: string): string => join(scene.site.left, name);

  beforeAll(async () => {
    await writeFile(join(scene.site.images, 'base.raw'), BASE);
    await convertImage(join(scene.site.images, 'base.raw'), join(scene.site.images, 'base.qcow2'), {
      from: 'raw',
      compress: true,
    });
  });

  it('exports an overlay that qemu-img finds sound, in the middle of a job and after it', async () => {
    const tab = await scene.tab();
    const end = await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'export', base: '/images/base.qcow2' });
      const ended = new Promise((resolve) =>
        disk.addEventListener('completed', ({ detail }) => resolve(detail)),
      );
      // As a Buffer has it: a part of a larger memory, whose slice is a view.
      const around = new Uint8Array(8000).fill(7);
      const part = around.subarray(1000, 6000);
      part.slice = part.subarray;
      await disk.write(1_000_001, part);
      if (around.length !== 8000) throw new Error('the memory around what was written is gone');
      await disk.stream({ nonblock: true, speed: 2 * 1024 * 1024 });
      await tools.leave('early.qcow2', await disk.exportQcow2());
      await disk.setSpeed(0);
      const detail = await ended;
      await tools.leave('late.qcow2', await disk.exportQcow2());
      await tools.leave('late.raw', await new Response(disk.readable()).blob());
      await disk.close();
      await tools.leave('closed.qcow2', await tools.exportDisk('export'));
      return { detail };
    });
    expect(end).toMatchObject({ detail: { status: 0, remaining: 0 } });
    const content = BASE.slice().fill(7, 1_000_001, 1_005_001);
    await writeFile(left('content.raw'), content);
    expect(Buffer.compare(await readFile(left('late.raw')), content)).toBe(0);
    expect(await info(left('early.qcow2'))).toMatchObject({
      'dirty-flag': false,
      'backing-filename': `${scene.site.origin}/images/base.qcow2`,
    });
    expect(await check(left('early.qcow2'))).toMatchObject({ exitCode: 0 });
    for (const name of ['late.qcow2', 'closed.qcow2']) {
      expect((await info(left(name)))['backing-filename']).toBeUndefined();
      expect(await check(left(name))).toMatchObject({ exitCode: 0 });
      expect(await compare(left(name), left('content.raw'), { formatB: 'raw' })).toMatchObject({
        identical: true,
      });
    }
  });

  it('tells how far a copy is, and leaves nothing of one that is given up', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const data = tools.makeContent('random', 5, 9 * 1024 * 1024);
      const disk = await tools.createDisk({ overlay: 'copied', base: data });
      await disk.stream();
      const parts: number[] = [];
      const file = await disk.exportQcow2({ onProgress: (done) => parts.push(done) });
      // Given up at the first word of it, and before it began.
      const giveUp = (
        copy: (options: {
          onProgress(done: number): void;
          signal: AbortSignal;
        }) => Promise<unknown>,
      ): Promise<{ code?: string }> => {
        const given = new AbortController();
        return tools.refusal(copy({ onProgress: () => given.abort(), signal: given.signal }));
      };
      const ended = { signal: AbortSignal.abort() };
      const codes = [
        (await giveUp((options) => disk.exportQcow2(options))).code,
        (await giveUp((options) => tools.importDisk('image', file, options))).code,
        (await tools.refusal(tools.importDisk('raw', new Blob([data as BlobPart]), ended))).code,
        (await tools.refusal(disk.exportQcow2(ended))).code,
        (await tools.refusal(disk.exportQcow2({ signl: ended } as never))).code,
      ];
      const imported: number[] = [];
      await tools.importDisk('whole', file, {
        onProgress(done) {
          imported.push(done);
          // Clears up after imports that were left, and not this one.
          void tools.listDisks();
        },
      });
      await disk.close();
      return { parts, imported, codes, names: (await tools.listDisks()).map(({ name }) => name) };
    });
    expect(told.codes).toEqual([...Array(4).fill('ABORTED'), 'EINVAL']);
    expect(told.parts.length).toBeGreaterThan(2);
    expect([told.parts[0], told.parts.at(-1)]).toEqual([0, 1]);
    expect(told.imported[0]).toBe(0);
    expect(told.imported.at(-1)).toBeGreaterThan(0.4);
    expect(told.names).toContain('whole');
    expect(told.names).not.toContain('image');
    expect(told.names).not.toContain('raw');
  });

  it('lists disks after a reload with what is known of them, renames and deletes them', async () => {
    const tab = await scene.tab();
    await tab.run(async (tools) => {
      const disk = await tools.createDisk({
        overlay: 'ein Name / mit: Ümläuten?',
        base: '/images/base.qcow2',
      });
      await disk.stream({ offset: 0, length: 1024 * 1024 });
      await disk.close();
    });
    await tab.reload();
    const told = await tab.run(async (tools) => {
      const name = 'ein Name / mit: Ümläuten?';
      const found = async (wanted: string) =>
        (await tools.listDisks()).find((disk) => disk.name === wanted);
      const before = await found(name);
      await (await tools.createDisk({ overlay: 'taken', size: 1024 * 1024 })).close();
      const taken = await tools.refusal(tools.renameDisk(name, 'taken'));
      const missing = await tools.refusal(tools.renameDisk('nowhere', 'other'));
      const same = await tools.refusal(tools.renameDisk(name, name));
      await tools.renameDisk(name, 'plain');
      const disk = await tools.openDisk({ overlay: 'plain' });
      const open = await tools.refusal(tools.deleteDisk('plain'));
      const bytes = await tools.sha256(await disk.read(0, 65536));
      await disk.close();
      const after = await found('plain');
      await tools.deleteDisk('plain');
      const gone = await tools.refusal(tools.openDisk({ overlay: 'plain' }));
      return {
        before,
        taken,
        missing,
        same,
        open,
        bytes,
        after,
        gone,
        last: await found('plain'),
        old: await found(name),
      };
    });
    const base = {
      name: `${scene.site.origin}/images/base.qcow2`,
      identity: expect.stringMatching(/^etag "/),
    };
    expect(told.before).toEqual({
      name: 'ein Name / mit: Ümläuten?',
      size: 6 * MIB,
      remaining: 5 * MIB,
      base,
      lastUsed: expect.any(Number),
    });
    expect(told.taken).toMatchObject({ code: 'EEXIST' });
    expect(told.missing).toMatchObject({ code: 'ENOENT' });
    expect(told.same).toMatchObject({
      code: 'EINVAL',
      message: expect.stringContaining('it has that name'),
    });
    expect(told.open).toMatchObject({
      code: 'EBUSY',
      message: expect.stringContaining('Test page'),
    });
    expect(told.after).toMatchObject({ name: 'plain', size: 6 * MIB, remaining: 5 * MIB, base });
    expect(told.gone).toMatchObject({ code: 'ENOENT' });
    expect([told.last ?? undefined, told.old ?? undefined]).toEqual([undefined, undefined]);
  });

  it('remembers the last use of a disk that is only read, and its base when it is opened without it', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const record = async () =>
        (await tools.listDisks()).find((disk) => disk.name === 'read only')!;
      await (
        await tools.createDisk({
          overlay: 'read only',
          base: new File([new Uint8Array(1024 * 1024)], 'chosen.raw', { lastModified: 7 }),
          baseFormat: 'raw',
        })
      ).close();
      const records = [await record()];
      for (const options of [{ readOnly: true, base: null }, { base: null }]) {
        while (Date.now() <= records[0].lastUsed!)
          await new Promise((resolve) => setTimeout(resolve, 5));
        await (await tools.openDisk({ overlay: 'read only', ...options })).close();
        records.push(await record());
      }
      return records;
    });
    const [first, ...later] = told;
    expect(first).toMatchObject({
      size: MIB,
      remaining: MIB,
      base: { name: 'chosen.raw', identity: `${MIB}-7` },
    });
    for (const record of later) {
      expect(record).toEqual({ ...first, lastUsed: expect.any(Number) });
      expect(record.lastUsed).toBeGreaterThan(first.lastUsed!);
    }
  });

  it('are kept for good if the browser agrees, which tells how much room there is', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'roomy', size: 4 * 1024 * 1024 });
      await disk.write(0, new Uint8Array(4 * 1024 * 1024).fill(1));
      await disk.close();
      return {
        agreed: await tools.persistDisks(),
        persisted: await navigator.storage.persisted(),
        room: await tools.storageRoom(),
      };
    });
    expect(told.agreed).toBe(told.persisted);
    if (scene.browser.name === 'firefox') expect(told.agreed).toBe(true);
    expect(told.room.used).toBeGreaterThanOrEqual(4 * MIB);
    expect(told.room.quota).toBeGreaterThan(told.room.used);
  });

  it('takes in qcow2 and raw files, and refuses what they are not', async () => {
    await qemuImg([
      'create',
      '-q',
      '-f',
      'qcow2',
      '-u',
      '-b',
      'https://nobody.invalid/base.raw',
      '-F',
      'raw',
      join(scene.site.images, 'over.qcow2'),
      '6M',
    ]);
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const file = async (name: string) =>
        new File([await (await fetch(`/images/${name}`)).blob()], name);
      const contentOf = async (overlay: string) => {
        const disk = await tools.openDisk({ overlay });
        const bytes = await disk.read(0, disk.size);
        const images = await disk.images();
        await disk.close();
        return { hash: await tools.sha256(bytes), images: images.length, format: images[0].format };
      };
      await tools.importDisk('from qcow2', await file('base.qcow2'));
      await tools.importDisk('from raw', await file('base.raw'));
      await tools.importDisk('bytes', await file('base.qcow2'), { format: 'raw' });
      await tools.importDisk('over', await file('over.qcow2'));
      return {
        qcow2: await contentOf('from qcow2'),
        raw: await contentOf('from raw'),
        again: await tools.refusal(tools.importDisk('from raw', await file('base.raw'))),
        wrong: await tools.refusal(
          tools.importDisk('wrong', await file('base.raw'), { format: 'qcow2' }),
        ),
        sizes: (await tools.listDisks()).map(({ name, size, base }) => ({
          name,
          size,
          base: base?.name,
        })),
      };
    });
    const hash = await tab.run((tools) =>
      fetch('/images/base.raw')
        .then((answer) => answer.arrayBuffer())
        .then((bytes) => tools.sha256(new Uint8Array(bytes))),
    );
    expect(told.qcow2).toEqual({ hash, images: 1, format: 'qcow2' });
    expect(told.raw).toEqual({ hash, images: 1, format: 'qcow2' });
    expect(told.again).toMatchObject({ code: 'EEXIST' });
    expect(told.wrong).toMatchObject({
      code: 'EUNSUPPORTED',
      message: expect.stringContaining('not a qcow2 image'),
    });
    expect(told.sizes).toContainEqual({
      name: 'over',
      size: 6 * MIB,
      base: 'https://nobody.invalid/base.raw',
    });
    expect(told.sizes).toContainEqual(expect.objectContaining({ name: 'from raw', size: 6 * MIB }));
    expect(told.sizes.map(({ name }) => name)).not.toContain('wrong');
  });

  it('takes in no file in the place of a disk, and forgets what it knew of one whose file is gone', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const image = async (value: number): Promise<Blob> => {
        const disk = await tools.createDisk({ overlay: `image ${value}`, size: 1024 * 1024 });
        await disk.write(0, new Uint8Array([value]));
        await disk.close();
        return new Blob([await (await tools.exportDisk(`image ${value}`)).arrayBuffer()]);
      };
      const images = [await image(1), await image(2)];
      const imports = await Promise.all(
        images.map((file) => tools.refusal(tools.importDisk('both', file))),
      );
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('millrace');
      const stale = async (name: string): Promise<void> => {
        const disk = await tools.createDisk({ overlay: name, base: '/images/base.raw' });
        await disk.stream({ nonblock: true, speed: 65536 });
        await disk.close();
        await folder.removeEntry(`${name}.qcow2`);
      };
      for (const name of ['created', 'taken-in', 'renamed']) await stale(name);
      await (await tools.createDisk({ overlay: 'created', size: 1024 * 1024 })).close();
      await tools.importDisk('taken-in', images[0]);
      await tools.renameDisk('image 2', 'renamed');
      const known = (await tools.listDisks()).filter(({ name }) =>
        ['created', 'taken-in', 'renamed'].includes(name),
      );
      return {
        imports: imports.map(({ code }) => code ?? 'taken in'),
        known: known.map(({ name, job, base, remaining }) => ({
          name,
          job: job ?? 'none',
          base: base ?? 'none',
          remaining: remaining ?? 0,
        })),
      };
    });
    expect(told.imports.sort()).toEqual(['EEXIST', 'taken in']);
    expect(told.known).toEqual(
      ['created', 'renamed', 'taken-in'].map((name) => ({
        name,
        job: 'none',
        base: 'none',
        remaining: 0,
      })),
    );
  });

  it('ends by its signal the job that was started with it, and no other', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'signalled', base: '/images/base.raw' });
      const [first, refused, second] = [
        new AbortController(),
        new AbortController(),
        new AbortController(),
      ];
      // The first of two that come at once.
      const ended = tools.refusal(disk.stream({ signal: first.signal, speed: 65536 }));
      const busy = await tools.refusal(
        disk.stream({ nonblock: true, signal: refused.signal, speed: 131072 }),
      );
      const job = async () =>
        (await tools.listDisks()).find(({ name }) => name === 'signalled')?.job?.speed;
      const speeds = [await job()];
      refused.abort();
      await disk.setSpeed(262144);
      speeds.push((await disk.info()).speed, await job());
      first.abort();
      const codes = [busy.code, (await ended).code];
      await disk.stream({ nonblock: true, speed: 65536, length: 65536, signal: second.signal });
      while ((await disk.info()).status === 1)
        await new Promise((resolve) => setTimeout(resolve, 10));
      await disk.stream({ nonblock: true, speed: 65536 });
      second.abort();
      await disk.flush();
      const { status } = await disk.info();
      await disk.close();
      return { speeds, codes, status };
    });
    expect(told).toEqual({
      speeds: [65536, 262144, 262144],
      codes: ['EBUSY', 'ABORTED'],
      status: 1,
    });
  });

  it('refuses by name what is no data, and what was given up before, and does not keep a disk whose job cannot go on', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'refusals', base: '/images/base.raw' });
      const extents = async (offset: number): Promise<void> => {
        for await (const _ of disk.map(offset)) return;
      };
      const refusals = [
        await tools.refusal(disk.write(0, 'text' as unknown as Uint8Array)),
        await tools.refusal(disk.write(0, undefined as unknown as Uint8Array)),
        await tools.refusal(extents(disk.size + 1)),
        await tools.refusal(tools.openDisk({ overlay: 'refusals', signal: AbortSignal.abort() })),
      ];
      await disk.stream({ nonblock: true, speed: 65536 });
      await disk.close();
      refusals.push(
        await tools.refusal(
          tools.openDisk({ overlay: 'refusals', readOnly: true, resumeJob: true }),
        ),
      );
      await (await tools.openDisk({ overlay: 'refusals' })).close();
      return refusals.map(({ name, code, message }) => `${name} ${code} ${message}`);
    });
    expect(told).toEqual([
      'MillraceError EINVAL cannot write: data is a Uint8Array',
      'MillraceError EINVAL cannot write: data is a Uint8Array',
      expect.stringMatching(/^MillraceError EINVAL (?!.*-)/),
      expect.stringMatching(/^MillraceError ABORTED disk 'refusals' was not opened/),
      expect.stringMatching(/^MillraceError EROFS/),
    ]);
  });

  it('has files, blobs, buffers and other disks as bases', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const bytes = await (await fetch('/images/base.raw')).arrayBuffer();
      const hash = await tools.sha256(new Uint8Array(bytes));
      const streamed = async (
        overlay: string,
        base: Parameters<typeof tools.createDisk>[0]['base'],
      ) => {
        const disk = await tools.createDisk({ overlay, base });
        await disk.stream();
        const same = (await tools.sha256(await disk.read(0, disk.size))) === hash;
        await disk.close();
        return same;
      };
      const file = new File([bytes], 'chosen.raw');
      const partly = await tools.createDisk({ overlay: 'partly', base: file });
      await partly.read(0, 4096);
      await partly.close();
      return {
        file: await streamed('on file', file),
        blob: await streamed('on blob', new Blob([bytes])),
        buffer: await streamed('on buffer', bytes),
        kept: bytes.byteLength,
        disk: await streamed('on disk', 'on file'),
        alone: await tools.refusal(tools.openDisk({ overlay: 'partly' })),
        other: await tools.refusal(
          tools.openDisk({
            overlay: 'partly',
            base: new File([bytes.slice(0, 4096)], 'chosen.raw'),
          }),
        ),
        again: await tools.openDisk({ overlay: 'partly', base: file }).then(async (disk) => {
          const same = (await tools.sha256(await disk.read(0, disk.size))) === hash;
          await disk.close();
          return same;
        }),
        relative: await tools.refusal(
          tools.createDisk({ overlay: 'x', base: 'ftp://nobody.invalid/disk' }),
        ),
      };
    });
    expect(told).toMatchObject({
      file: true,
      blob: true,
      buffer: true,
      kept: 6 * MIB,
      disk: true,
      again: true,
    });
    expect(told.alone).toMatchObject({
      code: 'ENOENT',
      message: expect.stringContaining('chosen.raw'),
    });
    expect(told.other).toMatchObject({ code: 'ECHANGED' });
    expect(told.relative).toMatchObject({
      code: 'EUNSUPPORTED',
      message: expect.stringContaining('ftp:'),
    });
  });

  it('refuses a disk that would be its own base, rather than wait for itself', async () => {
    await qemuImg([
      'create',
      '-q',
      '-f',
      'qcow2',
      '-u',
      '-b',
      'itself',
      '-F',
      'qcow2',
      join(scene.site.images, 'itself.qcow2'),
      '6M',
    ]);
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      await (await tools.createDisk({ overlay: 'ours', size: 1024 * 1024 })).close();
      await tools.importDisk('itself', await (await fetch('/images/itself.qcow2')).blob());
      const refusals = [
        await tools.refusal(tools.openDisk({ overlay: 'itself' })),
        await tools.refusal(tools.openDisk({ overlay: 'itself', whenBusy: 'wait' })),
        await tools.refusal(
          tools.openDisk({ overlay: 'itself', readOnly: true, followChain: true }),
        ),
        await tools.refusal(tools.createDisk({ overlay: 'ours', base: 'ours' })),
      ];
      const other = await tools.openDisk({ overlay: 'itself', base: '/images/base.raw' });
      await other.close();
      return refusals;
    });
    const own = {
      code: 'EINVAL',
      message: expect.stringMatching(/^disk '(itself|ours)' cannot be its own base: /),
    };
    expect(told).toMatchObject(Array(4).fill(own));
  });

  it('are checked and mended while they are closed', async () => {
    const tab = await scene.tab();
    const told = await tab.run(async (tools) => {
      const disk = await tools.createDisk({ overlay: 'judged', size: 1024 * 1024 });
      await disk.write(0, new Uint8Array(300_000).fill(3));
      const open = await tools.refusal(tools.checkDisk({ overlay: 'judged' }));
      await disk.close();
      const sound = await tools.checkDisk({ overlay: 'judged' });
      // A cluster at the end that has a refcount, and nothing that refers to it: the entry of the
      // first free one, in big-endian 16 bits.
      const bytes = new Uint8Array(await (await tools.exportDisk('judged')).arrayBuffer());
      const view = new DataView(bytes.buffer);
      const block = Number(view.getBigUint64(Number(view.getBigUint64(48))));
      let free = 0;
      while (view.getUint16(block + 2 * free) !== 0) free++;
      view.setUint16(block + 2 * free, 1);
      const grown = new Uint8Array(Math.max(bytes.length, (free + 1) * 65536));
      grown.set(bytes);
      await tools.importDisk('leaking', new Blob([grown]));
      const leaking = await tools.checkDisk({ overlay: 'leaking' });
      const mended = await tools.checkDisk({ overlay: 'leaking', repair: 'leaks' });
      const parts: [number, number][] = [];
      const after = await tools.checkDisk({
        overlay: 'leaking',
        data: true,
        onProgress: (done, total) => parts.push([done, total]),
      });
      const raw = await tools.checkDisk({
        overlay: tools.openBlob(new Blob([new Uint8Array(4096)])),
      });
      const gone = await tools.refusal(tools.checkDisk({ overlay: 'nowhere' }));
      return { open, sound, leaking, mended, after, parts, raw: raw === undefined, gone };
    });
    expect(told.open).toMatchObject({ code: 'EBUSY' });
    expect(told.sound).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(told.leaking).toMatchObject({ corruptions: 0, leaks: 1 });
    expect(told.mended).toMatchObject({ corruptions: 0 });
    expect(told.after).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(told.parts.at(-1)).toEqual([327_680, 1024 * 1024]);
    expect(told.raw).toBe(true);
    expect(told.gone).toMatchObject({ code: 'ENOENT' });
  });
}
