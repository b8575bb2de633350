/** Real clients against the NBD server: libnbd's tools and QEMU's. */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { listenNbd, NbdServer } from '../../hosts/node/nbd.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { check } from '../support/qemu.ts';
import { client, contentOf, MIB, nbdsh, withScene } from './scene.ts';

describeWithPeer(['nbdinfo', 'nbdcopy'], 'libnbd’s tools', () => {
  it('tells all there is to tell of an export', () =>
    withScene(async ({ uri }) => {
      const { stdout } = await client('nbdinfo', '--json', uri());
      const [told] = JSON.parse(stdout).exports;
      expect(told).toMatchObject({
        'export-name': 'vda',
        'export-size': 8 * MIB,
        contexts: ['base:allocation', 'qemu:allocation-depth'],
        is_rotational: false,
        is_read_only: false,
        can_cache: true,
        can_df: true,
        can_fast_zero: true,
        can_flush: true,
        can_fua: true,
        can_multi_conn: true,
        can_trim: true,
        can_zero: true,
        block_size_minimum: 1,
        block_size_preferred: 65536,
        block_size_maximum: 32 * MIB,
      });
      // The empty name is the only disk.
      const list = JSON.parse((await client('nbdinfo', '--json', '--list', uri(''))).stdout);
      expect(list.exports.map((each: Record<string, string>) => each['export-name'])).toEqual([
        'vda',
      ]);
    }));

  it('maps both contexts, live', () =>
    withScene(async ({ uri, disk }) => {
      const map = async (context: string): Promise<number[][]> => {
        const { stdout } = await client('nbdinfo', '--json', `--map=${context}`, uri());
        return JSON.parse(stdout).map((each: Record<string, number>) => [each.length, each.type]);
      };
      expect(await map('base:allocation')).toEqual([
        [2 * MIB, 0],
        [4 * MIB, 3],
        [2 * MIB, 0],
      ]);
      expect(await map('qemu:allocation-depth')).toEqual([[8 * MIB, 2]]);
      await disk.stream({ offset: 0, length: MIB });
      expect(await map('qemu:allocation-depth')).toEqual([
        [MIB, 1],
        [7 * MIB, 2],
      ]);
      await disk.stream();
      expect(await map('qemu:allocation-depth')).toEqual([[8 * MIB, 1]]);
    }));

  it('is copied from, and to, by four connections', () =>
    withScene(
      async ({ uri, base, folder, disk }) => {
        await client('nbdcopy', uri(), join(folder, 'out.raw'));
        expect(Buffer.compare(await readFile(join(folder, 'out.raw')), base)).toBe(0);
        const other = contentOf(base.length).map((byte) => byte ^ 0x5a);
        await writeFile(join(folder, 'in.raw'), other);
        await client('nbdcopy', '--flush', join(folder, 'in.raw'), uri());
        expect(Buffer.compare(await disk.read(0, disk.size), other)).toBe(0);
      },
      { size: 8 * MIB + 512 },
    ));
});

describeWithPeer(['fio'], 'fio', () => {
  it('finds every block that it wrote, many at once, by its check sum', () =>
    withScene(async ({ socket, overlay, close }) => {
      const { stdout } = await client(
        'fio',
        ...['--name=verify', '--ioengine=nbd', `--uri=nbd+unix:///vda?socket=${socket}`],
        ...['--rw=randwrite', '--bs=12k', '--size=6m', '--iodepth=16', '--fsync=32'],
        ...['--verify=crc32c', '--verify_fatal=1', '--do_verify=1', '--verify_state_save=0'],
        '--output-format=json',
      );
      const [job] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs;
      expect(job.error).toBe(0);
      expect(job.write.total_ios).toBeGreaterThan(20);
      expect(job.read.total_ios).toBeGreaterThan(20);
      await close();
      expect((await check(overlay)).exitCode).toBe(0);
    }));
});

describeWithPeer(['nbd-client'], 'nbd-client', () => {
  it('lists what is served', async () => {
    const runtime = new MemoryRuntime();
    const disk = await runtime.create({ overlay: 'vm.qcow2', size: MIB });
    const server = new NbdServer({ vda: disk, vdb: disk });
    const listening = await listenNbd(server, { hostname: '127.0.0.1', port: 0 });
    try {
      const { port } = listening.address as { port: number };
      const { stdout } = await client('nbd-client', '-l', '127.0.0.1', String(port));
      expect(stdout.split('\n').filter((line) => /^vd/.test(line))).toEqual(['vda', 'vdb']);
    } finally {
      await listening.close();
      await server.close();
      await disk.close();
    }
  });
});

describeWithPeer(['qemu-img', 'qemu-io'], 'QEMU’s tools', () => {
  it('compares, converts and writes, and the overlay is sound', () =>
    withScene(async ({ uri, folder, overlay, base, disk, close }) => {
      const raw = ['-f', 'raw', '-F', 'raw'];
      await client('qemu-img', 'compare', ...raw, uri(), join(folder, 'base.raw'));
      const io = await client(
        'qemu-io',
        '-f',
        'raw',
        ...['write -P 7 1000 70000', 'read -P 7 1000 70000', 'write -z 128k 256k'].flatMap(
          (line) => ['-c', line],
        ),
        ...['read -P 0 128k 256k', 'discard 1M 1M', 'write -f -P 9 7M 3', 'flush'].flatMap(
          (line) => ['-c', line],
        ),
        uri(),
      );
      expect(io.stdout).not.toContain('failed');
      expect((await disk.read(7 * MIB, 4)).slice(0, 4)).toEqual(
        Uint8Array.of(9, 9, 9, base[7 * MIB + 3]),
      );
      await close();
      expect((await check(overlay)).exitCode).toBe(0);
    }));
});

describeWithPeer(['nbdsh'], 'a libnbd script', () => {
  it('does each command, with each flag', () =>
    withScene(async ({ uri, base, disk }) => {
      const told = await nbdsh(
        uri(),
        `
h.add_meta_context("base:allocation")
h.connect_uri(uri)
print(h.get_size(), h.get_structured_replies_negotiated())
h.pwrite(b"x" * 1000, 100)
assert h.pread(1000, 100) == b"x" * 1000
h.pwrite(b"y" * 10, 5, nbd.CMD_FLAG_FUA)
h.flush()
h.zero(200000, 65536, nbd.CMD_FLAG_FUA)
assert h.pread(200000, 65536) == bytes(200000)
h.zero(65536, 65536, nbd.CMD_FLAG_NO_HOLE)
h.zero(65536, 131072, nbd.CMD_FLAG_FAST_ZERO)
try:
    h.zero(100, 3, nbd.CMD_FLAG_FAST_ZERO)
    print("fast?")
except nbd.Error as e:
    print(errno.errorcode[e.errnum])
h.trim(131072, 3 * 65536)
h.cache(1 << 20, 1 << 20)
seen = []
h.block_status(8 << 20, 0, lambda m, o, e, err: seen.append((m, e)))
print(len(seen), sum(seen[0][1][0::2]))
seen = []
h.block_status(8 << 20, 0, lambda m, o, e, err: seen.append((m, e)), nbd.CMD_FLAG_REQ_ONE)
print(len(seen[0][1]) // 2)
seen = []
def chunk(buf, off, status, err): seen.append((off, len(buf), status))
h.pread_structured(8 << 20, 0, chunk)
print(any(s[2] == nbd.READ_HOLE for s in seen), any(s[2] == nbd.READ_DATA for s in seen))
seen = []
h.pread_structured(8 << 20, 0, chunk, nbd.CMD_FLAG_DF)
print(len(seen))
h.shutdown()
`,
      );
      expect(told.split('\n')).toEqual([
        `${8 * MIB} True`,
        'ENOTSUP',
        `1 ${8 * MIB}`,
        '1',
        'True True',
        '1',
      ]);
      expect(await disk.read(5, 10)).toEqual(new Uint8Array(10).fill('y'.charCodeAt(0)));
      // CACHE has populated the range, and changed nothing.
      expect(await disk.remaining(MIB, MIB)).toBe(0);
      // Vitest takes half a minute to compare so much.
      expect(Buffer.compare(await disk.read(MIB, MIB), base.subarray(MIB, 2 * MIB))).toBe(0);
    }));

  it('is refused what cannot be, and goes on', () =>
    withScene(async ({ uri }) => {
      const told = await nbdsh(
        uri(),
        `
h.set_strict_mode(0)
h.connect_uri(uri)
def tries(what):
    try:
        what()
        print("done")
    except nbd.Error as e:
        print(errno.errorcode[e.errnum])
end = 8 << 20
tries(lambda: h.pread(512, end))
tries(lambda: h.pread(512, end - 511))
tries(lambda: h.pread((32 << 20) + 1, 0))
tries(lambda: h.pwrite(b"z" * 512, end - 511))
tries(lambda: h.zero(512, end))
tries(lambda: h.trim(512, end))
tries(lambda: h.cache(512, end))
tries(lambda: h.pread(512, 0, nbd.CMD_FLAG_NO_HOLE))
tries(lambda: h.pwrite(b"z" * 512, 0, nbd.CMD_FLAG_DF))
tries(lambda: h.block_status(512, 0, lambda *a: 0))
tries(lambda: h.pread(512, 0))
h.shutdown()
`,
      );
      expect(told.split('\n')).toEqual(
        'EINVAL EINVAL EINVAL ENOSPC ENOSPC EINVAL EINVAL EINVAL EINVAL EINVAL done'.split(' '),
      );
    }));

  it('sees a write of one connection behind the flush of another, and simple replies', () =>
    withScene(async ({ uri }) => {
      const told = await nbdsh(
        uri(),
        `
g = nbd.NBD()
g.set_request_structured_replies(False)
h.connect_uri(uri); g.connect_uri(uri)
h.pwrite(b"q" * 512, 4096)
g.flush()
print(g.pread(512, 4096) == b"q" * 512, g.get_structured_replies_negotiated(), g.can_multi_conn())
try:
    g.pread(8 << 20, 8 << 20)
except nbd.Error as e:
    print(errno.errorcode[e.errnum])
print(len(g.pread(1 << 20, 0)))
`,
      );
      expect(told.split('\n')).toEqual(['True False True', 'EINVAL', `${MIB}`]);
    }));

  it('may not write to what is served read-only', () =>
    withScene(
      async ({ uri }) => {
        const told = await nbdsh(
          uri(),
          `
h.set_strict_mode(0)
h.connect_uri(uri)
print(h.is_read_only())
for what in (lambda: h.pwrite(b"z" * 512, 0), lambda: h.trim(65536, 0), lambda: h.zero(512, 0)):
    try:
        what()
        print("done")
    except nbd.Error as e:
        print(errno.errorcode[e.errnum])
h.flush()
`,
        );
        expect(told.split('\n')).toEqual(['True', 'EPERM', 'EPERM', 'EPERM']);
      },
      { readOnly: true },
    ));

  it('keeps a socket to its owner, and takes over one that was left behind', () =>
    withScene(async ({ socket }) => {
      expect((await stat(socket)).mode & 0o777).toBe(0o600);
    }));
});
