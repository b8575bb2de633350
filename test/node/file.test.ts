/** Local files as block files: what they read, write and keep, and how their errors are told. */
import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import nodeFs, * as fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { MillraceError } from '../../hosts/api/errors.ts';
import { fileError, openFile, openFileSource } from '../../hosts/node/file.ts';
import { CACHED_READ_BYTES_MAX } from '../../hosts/node/page-cache.ts';
import { SHORT_WRITE_BYTES_MAX } from '../../hosts/node/short-writes.ts';
import { peer } from '../support/peer.ts';

const MIB = 1024 * 1024;
const isRoot = process.getuid?.() === 0;

let folder: string;
let path: string;

beforeEach(() => {
  folder = fs.mkdtempSync(join(tmpdir(), 'millrace-file-'));
  path = join(folder, 'disk.raw');
});

afterEach(() => fs.rmSync(folder, { recursive: true }));

/** A test that needs a privilege: skipped, with a line, where it is not to be had. */
function itAsRoot(title: string, test: () => Promise<void> | void): void {
  if (!isRoot) console.warn(`skipped: ${title} (needs root)`);
  it.skipIf(!isRoot)(title, test);
}

function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * 7 + seed) & 0xff);
}

describe('a file', () => {
  it('keeps what is written, in views of a memory, many at once', async () => {
    const file = await openFile(path, { create: true });
    expect(file).toMatchObject({ size: 0, name: path });
    const memory = new WebAssembly.Memory({ initial: 256, maximum: 256 });
    const parts = Array.from({ length: 8 }, (_, i) => new Uint8Array(memory.buffer, i * MIB, MIB));
    await Promise.all(
      parts.map((part, i) => {
        part.set(pattern(MIB, i));
        return file.write(i * MIB, part);
      }),
    );
    expect(file.size).toBe(8 * MIB);
    const back = parts.map((_, i) => new Uint8Array(memory.buffer, (8 + i) * MIB - i, MIB));
    for (const [i, into] of back.entries()) {
      await file.read(i * MIB, into);
      expect(Buffer.compare(into, parts[i]), `part ${i}`).toBe(0);
    }
    await file.flush();
    await file.close();
    expect(fs.statSync(path).size).toBe(8 * MIB);
  });

  it('grows by writes past its end, and by truncate, with zeros', async () => {
    const file = await openFile(path, { create: true });
    await file.write(100_000, pattern(10, 1));
    expect(file.size).toBe(100_010);
    await file.truncate(200_000);
    expect(file.size).toBe(200_000);
    const all = pattern(200_000, 3);
    await file.read(0, all);
    expect(all.subarray(0, 100_000).every((byte) => byte === 0)).toBe(true);
    expect(all.subarray(100_000, 100_010)).toEqual(pattern(10, 1));
    expect(all.subarray(100_010).every((byte) => byte === 0)).toBe(true);
    await file.truncate(5);
    expect(file.size).toBe(5);
    await expect(file.read(0, new Uint8Array(6))).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(file.read(-1, new Uint8Array(1))).rejects.toMatchObject({ code: 'EINVAL' });
    await file.close();
  });

  it('above 4 GiB is read and written at its place', async () => {
    const file = await openFile(path, { create: true });
    const far = 2 ** 42 + 12_345;
    await file.write(far, pattern(5_000, 9));
    const into = new Uint8Array(5_000);
    await file.read(far, into);
    expect(into).toEqual(pattern(5_000, 9));
    await file.close();
  });

  it('is made only when asked for, and not over another one when exclusive', async () => {
    await expect(openFile(path)).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringContaining(`'${path}'`),
    });
    await (await openFile(path, { create: true, exclusive: true })).close();
    fs.writeFileSync(path, 'kept');
    await expect(openFile(path, { create: true, exclusive: true })).rejects.toMatchObject({
      code: 'EEXIST',
    });
    await (await openFile(path, { create: true })).close();
    expect(fs.readFileSync(path, 'utf8')).toBe('kept');
    expect(fs.readdirSync(folder)).toEqual(['disk.raw']);
  });

  it('opened read-only is not written to, and says so', async () => {
    fs.writeFileSync(path, 'kept');
    const file = await openFile(path, { readOnly: true });
    await expect(file.write(0, pattern(4, 0))).rejects.toMatchObject({
      code: 'EROFS',
      message: expect.stringContaining(path),
    });
    await expect(file.truncate(0)).rejects.toMatchObject({ code: 'EROFS' });
    await file.flush();
    await file.close();
    expect(fs.readFileSync(path, 'utf8')).toBe('kept');
  });

  it('is read at once where the page cache has it, and waited for where not', async () => {
    const bytes = pattern(3 * MIB, 4);
    fs.writeFileSync(path, bytes);
    const file = await openFile(path, { readOnly: true });
    const read = async (offset: number, length: number): Promise<boolean> => {
      const into = new Uint8Array(length);
      const reading = file.read(offset, into);
      const atOnce = reading === undefined;
      await reading;
      expect(Buffer.compare(into, bytes.subarray(offset, offset + length))).toBe(0);
      return atOnce;
    };
    if (peer('koffi').path !== undefined && process.platform === 'linux')
      for (const length of [1, 4096, CACHED_READ_BYTES_MAX])
        expect(await read(12_345, length), `${length} bytes`).toBe(true);
    expect(await read(12_345, CACHED_READ_BYTES_MAX + 1)).toBe(false);
    // Written, and dropped from the cache where the file system can: then it waits, and is the
    // same.
    spawnSync('sync', [path]);
    spawnSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0']);
    for (let offset = 0; offset < bytes.length - 5000; offset += 300_001) await read(offset, 5000);
    await file.close();
  });

  it('takes a short write at once, unless another operation is under way', async () => {
    const file = await openFile(path, { create: true });
    expect(file.write(0, pattern(4096, 1))).toBeUndefined();
    expect(file.size).toBe(4096);
    expect(fs.readFileSync(path)).toEqual(Buffer.from(pattern(4096, 1)));
    const long = file.write(4096, pattern(SHORT_WRITE_BYTES_MAX + 1, 2));
    expect(long).toBeInstanceOf(Promise);
    const beside = file.write(0, pattern(4096, 3));
    expect(beside).toBeInstanceOf(Promise);
    await Promise.all([long, beside]);
    expect(file.write(0, pattern(4096, 4))).toBeUndefined();
    await file.close();
  });

  it('leaves writes to threads for a while when one had to wait', async () => {
    const file = await openFile(path, { create: true });
    const now = vi.spyOn(performance, 'now');
    // As long as the storage takes 100 ms for one.
    for (const ms of [0, 0, 100]) now.mockReturnValueOnce(ms);
    expect(file.write(0, pattern(4096, 1))).toBeUndefined();
    now.mockReturnValue(2099);
    const later = file.write(0, pattern(4096, 2));
    expect(later).toBeInstanceOf(Promise);
    await later;
    now.mockReturnValue(2100);
    expect(file.write(0, pattern(4096, 3))).toBeUndefined();
    now.mockRestore();
    await file.close();
  });

  it('cut by another program while it is read tells so', async () => {
    fs.writeFileSync(path, pattern(10_000, 0));
    const source = await openFileSource(path);
    fs.truncateSync(path, 6_000);
    await expect(source.read(5_000, new Uint8Array(2_000))).rejects.toMatchObject({
      code: 'ECHANGED',
      offset: 6_000,
    });
    await source.close();
  });

  it('written by another program while it is a base tells so; one that is only looked at does not', async () => {
    fs.writeFileSync(path, pattern(10_000, 0));
    const base = await openFileSource(path);
    const looked = await openFile(path, { readOnly: true });
    await base.read(0, new Uint8Array(2_000));
    const { mtime } = fs.statSync(path);
    fs.writeFileSync(path, pattern(10_000, 1));
    fs.utimesSync(path, mtime, new Date(mtime.getTime() + 1000));
    const refused = {
      code: 'ECHANGED',
      offset: 5_000,
      message: `'${path}' has changed since it was opened: another program has written to it`,
    };
    await expect(base.read(5_000, new Uint8Array(2_000))).rejects.toMatchObject(refused);
    await looked.read(5_000, new Uint8Array(2_000));
    await base.close();
    await looked.close();
  });

  it('closes after what is in flight, and takes nothing after', async () => {
    fs.writeFileSync(path, pattern(4 * MIB, 5));
    const file = await openFile(path);
    const into = new Uint8Array(4 * MIB);
    const read = file.read(0, into);
    const closed = file.close();
    await expect(file.read(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'ECLOSED' });
    await expect(file.write(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'ECLOSED' });
    await read;
    expect(Buffer.compare(into, pattern(4 * MIB, 5))).toBe(0);
    await closed;
    await file.close();
  });

  it("waits for the device at a flush, but for the cache mode 'unsafe'", async () => {
    const { fdatasync, fsync } = fs;
    const seen: string[] = [];
    Object.assign(nodeFs, {
      fdatasync: (fd: number, settle: fs.NoParamCallback) =>
        void (seen.push('fdatasync'), fdatasync(fd, settle)),
      fsync: (fd: number, settle: fs.NoParamCallback) =>
        void (seen.push('fsync'), fsync(fd, settle)),
    });
    syncBuiltinESMExports();
    try {
      for (const cache of ['unsafe', 'writeback'] as const) {
        const file = await openFile(join(folder, cache), { create: true, cache });
        await file.write(0, pattern(1000, 2));
        await file.flush();
        await file.close();
        expect(fs.readFileSync(join(folder, cache)).equals(pattern(1000, 2))).toBe(true);
        expect(seen.includes('fdatasync'), cache).toBe(cache === 'writeback');
      }
    } finally {
      Object.assign(nodeFs, { fdatasync, fsync });
      syncBuiltinESMExports();
    }
  });

  it('is not read for somebody who has gone', async () => {
    fs.writeFileSync(path, 'content');
    const source = await openFileSource(path);
    const reason = new Error('gone');
    await expect(
      source.read(0, new Uint8Array(4), { signal: AbortSignal.abort(reason) }),
    ).rejects.toBe(reason);
    await source.close();
  });
});

describe('the identity of a base', () => {
  it('stays while nobody writes to it, and changes with its bytes', async () => {
    const identity = async (): Promise<string | undefined> => {
      const source = await openFileSource(path);
      await source.close();
      return source.identity;
    };
    fs.writeFileSync(path, 'content');
    const before = await identity();
    expect(before).toMatch(/^7-\d+$/);
    fs.readFileSync(path);
    expect(await identity()).toBe(before);
    const { mtime } = fs.statSync(path);
    fs.writeFileSync(path, 'CONTENT');
    // Times are set as seconds in floating point, and cut to what the file system keeps: a second
    // is sure to show.
    fs.utimesSync(path, mtime, new Date(mtime.getTime() + 1000));
    expect(await identity()).not.toBe(before);
  });
});

describe('what is no image', () => {
  it.each([[openFile], [openFileSource]])('is refused by its kind', async (open) => {
    const refused = async (at: string, kind: string): Promise<void> => {
      await expect(open(at)).rejects.toMatchObject({
        code: 'EINVAL',
        message: `cannot open '${at}': it is ${kind}, not an image`,
      });
    };
    await refused(folder, 'a folder');
    await refused('/dev/null', 'a character device');
    execFileSync('mkfifo', [path]);
    await refused(path, 'a FIFO');
    const socket = join(folder, 'socket');
    const server = createServer().listen(socket);
    await once(server, 'listening');
    await refused(socket, 'a socket');
    server.close();
    await expect(open(join(path, 'beneath a file'))).rejects.toMatchObject({ code: 'ENOENT' });
    expect(fs.readdirSync(folder).filter((name) => name.includes('lock'))).toEqual([]);
  });

  itAsRoot('a block device is a base, but no overlay', async () => {
    fs.writeFileSync(path, pattern(3 * MIB, 4));
    const loop = spawnSync('losetup', ['--find', '--show', path], { encoding: 'utf8' });
    if (loop.status !== 0) {
      console.warn(
        `skipped: a block device is a base, but no overlay (${loop.stderr?.trim() ?? loop.error})`,
      );
      return;
    }
    const device = loop.stdout.trim();
    try {
      await expect(openFile(device)).rejects.toMatchObject({
        code: 'EUNSUPPORTED',
        message: expect.stringContaining('block device'),
      });
      const source = await openFileSource(device);
      expect(source).toMatchObject({ size: 3 * MIB, identity: undefined });
      const into = new Uint8Array(1000);
      await source.read(2 * MIB + 7, into);
      expect(into).toEqual(pattern(3 * MIB, 4).subarray(2 * MIB + 7, 2 * MIB + 1007));
      await source.close();
    } finally {
      execFileSync('losetup', ['--detach', device]);
    }
  });
});

describe('storage that fails', () => {
  it.skipIf(!fs.existsSync('/proc/self/fd'))(
    'under the folder of a new file leaves neither the file nor a handle',
    async () => {
      const { fsync } = fs;
      Object.assign(nodeFs, {
        fsync: (_: number, settle: fs.NoParamCallback) =>
          settle(Object.assign(new Error('i/o error'), { code: 'EIO' })),
      });
      syncBuiltinESMExports();
      try {
        vi.resetModules();
        const { openFile: openAnew } = await import('../../hosts/node/file.ts');
        await expect(openAnew(path, { create: true })).rejects.toMatchObject({
          code: 'EIO',
          message: `cannot create '${path}': i/o error (EIO)`,
        });
      } finally {
        Object.assign(nodeFs, { fsync });
        syncBuiltinESMExports();
      }
      expect(fs.readdirSync(folder)).toEqual([]);
      const handles = spawnSync('ls', ['-l', `/proc/${process.pid}/fd`], {
        encoding: 'utf8',
      }).stdout;
      expect(handles).toContain(' -> ');
      expect(handles).not.toContain(folder);
    },
  );

  itAsRoot(
    'a full file system is told with place and advice, and goes on once there is room',
    async () => {
      const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder], {
        encoding: 'utf8',
      });
      if (mounted.status !== 0) {
        console.warn(`skipped: a full file system (${mounted.stderr?.trim() ?? mounted.error})`);
        return;
      }
      try {
        const ballast = join(folder, 'ballast');
        fs.writeFileSync(ballast, new Uint8Array(MIB / 2));
        const file = await openFile(path, { create: true });
        const error = await Promise.resolve(file.write(0, pattern(MIB, 1))).catch(
          (error) => error as MillraceError,
        );
        const { code, message, offset } = error as MillraceError;
        expect(code).toBe('ENOSPC');
        expect(message).toBe(
          `cannot write '${path}' at offset ${offset}: no space left on device (ENOSPC); make room on its file system`,
        );
        expect(file.size).toBe(fs.statSync(path).size);
        fs.unlinkSync(ballast);
        await file.write(0, pattern(MIB / 2, 1));
        await file.flush();
        await file.close();
      } finally {
        execFileSync('umount', [folder]);
      }
    },
  );

  itAsRoot('what may not be read, written or locked is told without a trace left', () => {
    const open = join(folder, 'open');
    fs.mkdirSync(open);
    fs.chmodSync(open, 0o777);
    fs.chmodSync(folder, 0o755);
    for (const [name, mode] of [
      ['disk.raw', 0o644],
      ['unreadable', 0o600],
      ['open/unwritable', 0o644],
    ] as const) {
      fs.writeFileSync(join(folder, name), 'content', { mode });
    }
    const uid = process.geteuid!();
    process.seteuid!(65_534);
    return (async () => {
      const refused = async (
        opening: Promise<unknown>,
        what: string,
        advice = '',
      ): Promise<void> => {
        const message = `cannot ${what}': permission denied (EACCES)${advice}`;
        await expect(opening).rejects.toMatchObject({ code: 'EACCES', message });
      };
      await refused(openFileSource(join(folder, 'unreadable')), `open '${folder}/unreadable`);
      await refused(openFile(join(open, 'unwritable')), `open '${folder}/open/unwritable`);
      const advice = '; who writes an image has to be able to write to its folder';
      await refused(
        openFile(path),
        `make the lock '${path}.lock`,
        `${advice}: else open it read-only`,
      );
      await refused(
        openFile(join(folder, 'new'), { create: true }),
        `make the lock '${folder}/new.lock`,
        advice,
      );
      await (await openFile(path, { readOnly: true })).close();
    })().finally(() => {
      process.seteuid!(uid);
      expect(fs.readdirSync(folder).sort()).toEqual(['disk.raw', 'open', 'unreadable']);
      expect(fs.readdirSync(open)).toEqual(['unwritable']);
    });
  });

  it('every error of the system has a code of ours', () => {
    const codes = {
      EIO: -5,
      EDQUOT: -122,
      EFBIG: -27,
      EPERM: -1,
      EROFS: -30,
      EMFILE: -24,
      ELOOP: -40,
    };
    const told = Object.entries(codes).map(([code, errno]) => {
      const error = fileError('read', '/a', Object.assign(new Error(), { code, errno }), 7);
      expect(error.offset).toBe(7);
      return [code, error.code, error.message];
    });
    expect(told).toEqual([
      ['EIO', 'EIO', "cannot read '/a' at offset 7: i/o error (EIO)"],
      ['EDQUOT', 'ENOSPC', expect.stringContaining('quota')],
      ['EFBIG', 'ENOSPC', expect.stringContaining('ulimit -f')],
      ['EPERM', 'EACCES', expect.stringContaining('operation not permitted')],
      ['EROFS', 'EROFS', expect.stringContaining('read-only file system')],
      ['EMFILE', 'EIO', expect.stringContaining('ulimit -n')],
      ['ELOOP', 'EINVAL', expect.stringContaining('symbolic links')],
    ]);
  });
});
