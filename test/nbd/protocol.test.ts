/** The protocol, message by message, with a client of our own. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Disk } from '../../hosts/api/disk.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import * as limits from '../../hosts/faces/nbd/limits.ts';
import { NbdServer } from '../../hosts/faces/nbd/server.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { Client, goData, MAGIC, metaContexts, optionHeader, u32 } from './client.ts';
import { contentOf, MIB } from './scene.ts';

const SIZE = 8 * MIB + 7 * 512;
const ERR = 0x80000000;

let runtime: MemoryRuntime;
let disk: Disk;
let server: NbdServer;
const base = contentOf(SIZE);

beforeEach(async () => {
  runtime = new MemoryRuntime();
  runtime.add('base.raw', base);
  disk = await runtime.create({ overlay: 'vm.qcow2', base: 'base.raw', baseFormat: 'raw' });
  server = new NbdServer({ vda: disk }, { ioTimeout: 300 });
});

afterEach(async () => {
  runtime.plan = undefined;
  await server.close();
  await disk.close();
});

describe('the handshake', () => {
  it('answers what it does not know, and goes on', async () => {
    const client = await Client.greeted(server);
    for (const option of [4, 12, 99, 0xffffffff]) {
      const [reply] = await client.option(option, Buffer.alloc(100));
      expect(reply).toMatchObject({ option, type: ERR + 1 });
    }
    expect((await client.option(3)).map(({ type }) => type)).toEqual([2, 1]);
    expect((await client.option(3, Buffer.alloc(1)))[0].type).toBe(ERR + 3);
    expect((await client.option(5))[0].type).toBe(ERR + 2);
    await client.option(2, Buffer.from('with data'));
    await client.served;
  });

  it('tells of an export, and refuses one that is not there', async () => {
    const client = await Client.greeted(server);
    const [info, blocks, name, ack] = await client.option(6, goData('', [3, 1, 77])).then((all) => {
      const byType = new Map(
        all.map((reply) => [
          reply.data.length >= 2 && reply.type === 3 ? reply.data.readUInt16BE() : -1,
          reply,
        ]),
      );
      return [byType.get(0)!, byType.get(3)!, byType.get(1)!, byType.get(-1)!];
    });
    expect(Number(info.data.readBigUInt64BE(2))).toBe(SIZE);
    expect([2, 6, 10].map((at) => blocks.data.readUInt32BE(at))).toEqual([1, 65536, 32 * MIB]);
    expect(name.data.toString('utf8', 2)).toBe('vda');
    expect(ack.type).toBe(1);
    const [unknown] = await client.option(7, goData('vdz'));
    expect(unknown.type).toBe(ERR + 6);
    expect(String(unknown.data)).toBe("there is no export 'vdz'; there are 'vda'");
    await client.close();
  });

  it.each([
    ['a name longer than the data', 6, Buffer.concat([u32(1000), Buffer.alloc(4)])],
    ['a name longer than names are', 7, goData('x'.repeat(4097))],
    ['a name that is no UTF-8', 7, Buffer.concat([u32(1), Buffer.from([0xff, 0, 0])])],
    ['fewer infos than announced', 7, Buffer.concat([u32(0), Buffer.from([0, 9])])],
    ['bytes behind its end', 6, Buffer.concat([goData('vda'), Buffer.alloc(1)])],
    ['nothing', 7, Buffer.alloc(0)],
  ])('refuses an option with %s', async (_, option, data) => {
    const client = await Client.greeted(server);
    expect((await client.option(option, data))[0].type).toBe(ERR + 3);
    expect((await client.option(7, goData('vda'))).at(-1)!.type).toBe(1);
    await client.close();
  });

  it('passes over an option that is too long, and drops one that is far too long', async () => {
    const client = await Client.greeted(server);
    const [reply] = await client.option(7, Buffer.alloc(limits.OPTION_BYTES_MAX + 1));
    expect(reply.type).toBe(ERR + 9);
    expect((await client.option(99, Buffer.alloc(100_000)))[0].type).toBe(ERR + 1);
    await client.send(optionHeader(99, 0xffffffff));
    expect(await client.isEnded()).toBe(true);
  });

  it('drops unknown client flags, a wrong magic, and endless options', async () => {
    expect(await (await Client.greeted(server, 4)).isEnded()).toBe(true);
    const wrong = await Client.greeted(server);
    await wrong.send(Buffer.from('IHAVENOT'), u32(3), u32(0));
    expect(await wrong.isEnded()).toBe(true);
    const endless = await Client.greeted(server);
    for (let i = 0; i < limits.OPTIONS_MAX; i++) await endless.option(99);
    expect(await endless.isEnded()).toBe(true);
  });

  it('does not wait for ever', async () => {
    const hasty = new NbdServer({ vda: disk }, { handshakeTimeout: 50 });
    const client = await Client.greeted(hasty);
    expect(await client.isEnded()).toBe(true);
    await client.served;
    await hasty.close();
  });

  it('takes the old way in, with and without zeroes', async () => {
    for (const [flags, length] of [
      [1, 134],
      [3, 10],
    ]) {
      const client = await Client.greeted(server, flags);
      await client.send(optionHeader(1, 3), Buffer.from('vda'));
      const told = await client.take(length);
      expect(Number(told.readBigUInt64BE())).toBe(SIZE);
      expect(await client.read(0, 600)).toEqual(Buffer.from(base.slice(0, 600)));
      await client.close();
    }
    const none = await Client.greeted(server);
    await none.send(optionHeader(1, 3), Buffer.from('vdb'));
    expect(await none.isEnded()).toBe(true);
  });

  it('lists and chooses contexts', async () => {
    const client = await Client.greeted(server);
    const names = async (option: number, queries: string[]): Promise<string[]> =>
      (await client.option(option, metaContexts('vda', queries)))
        .filter(({ type }) => type === 4)
        .map(({ data }) => data.toString('utf8', 4));
    expect((await client.option(9, metaContexts('vda', [])))[0].type).toBe(ERR + 3);
    await client.option(8);
    const both = ['base:allocation', 'qemu:allocation-depth'];
    expect(await names(9, [])).toEqual(both);
    expect(await names(9, ['base:', 'x-other:y', 'qemu:allocation-depth'])).toEqual(both);
    expect(await names(10, [])).toEqual([]);
    expect(await names(10, ['base:', 'qemu:dirty-bitmap:b', 'qemu:allocation-depth'])).toEqual([
      'qemu:allocation-depth',
    ]);
    expect((await client.option(10, metaContexts('vdz', both)))[0].type).toBe(ERR + 6);
    await client.close();
  });

  it('needs TLS first where that is asked for', async () => {
    const closed = new NbdServer({ vda: disk }, { tlsRequired: true });
    const client = await Client.greeted(closed);
    for (const option of [3, 6, 7, 8, 9, 10, 11, 99])
      expect((await client.option(option))[0].type).toBe(ERR + 5);
    await client.send(optionHeader(1, 3), Buffer.from('vda'));
    expect(await client.isEnded()).toBe(true);
    await closed.close();
  });

  it('lets in so many clients, and no more', async () => {
    const clients = [];
    for (let i = 0; i < limits.CONNECTIONS_MAX; i++) clients.push(await Client.greeted(server));
    expect(await new Client(server).isEnded()).toBe(true);
    for (const client of clients) await client.close();
    await Promise.all(clients.map((client) => client.served));
    expect(server.connections).toBe(0);
  });
});

describe.each(['simple', 'structured', 'extended'] as const)('%s replies', (style) => {
  it('read and write at any byte', async () => {
    const client = await Client.ready(server, style);
    expect(await client.read(0, 4096)).toEqual(Buffer.from(base.slice(0, 4096)));
    // Vitest takes half a minute to compare so much.
    expect((await client.read(MIB, 6 * MIB)).equals(base.subarray(MIB, 7 * MIB))).toBe(true);
    expect(await client.read(SIZE - 5, 5)).toEqual(Buffer.from(base.slice(-5)));
    const data = Buffer.alloc(70_001, 0x42);
    const flags = style === 'extended' ? 33 : 1;
    await client.request(1, 12_345, data.length, { flags, cookie: 7n, payload: data });
    const written = await client.reply();
    expect(written).toMatchObject({
      magic: MAGIC[style === 'extended' ? 'extended' : 'simple'],
      cookie: 7n,
      error: 0,
    });
    if (style === 'extended') expect(written.offset).toBe(12_345n);
    expect(await client.read(12_345, data.length)).toEqual(data);
    await client.request(2, 0, 0);
    await client.served;
  });

  it('refuse, and go on', async () => {
    const client = await Client.ready(server, style);
    const withPayload = style === 'extended' ? 32 : 0;
    const tries: [number, number, bigint, bigint, number, Buffer?][] = [
      // type, flags, offset, length, error, payload
      [0, 0, BigInt(SIZE), 1n, 22],
      [0, 0, 2n ** 63n, 1n, 22],
      [0, 0, 0n, BigInt(32 * MIB + 1), 22],
      [1, withPayload, BigInt(SIZE - 1), 2n, 28, Buffer.alloc(2)],
      [6, 0, BigInt(SIZE), 1n, 28],
      [4, 0, BigInt(SIZE), 1n, 22],
      [3, 0, 1n, 0n, 22],
      [7, 0, 0n, 512n, 22],
      [9, 0, 0n, 0n, 22],
      [0, 64, 0n, 512n, 22],
      [0, 2, 0n, 512n, 22],
      [1, withPayload | 16, 0n, 2n, 22, Buffer.alloc(2)],
    ];
    for (const [type, flags, offset, length, error, payload] of tries) {
      await client.request(type, offset, length, { flags, payload });
      expect(await client.reply(), `command ${type} flags ${flags}`).toMatchObject({ error });
    }
    expect(await client.read(0, 512)).toEqual(Buffer.from(base.slice(0, 512)));
    await client.close();
  });

  it('drop a client that is out of step, or sends far too much', async () => {
    const out = await Client.ready(server, style);
    await out.send(Buffer.alloc(32, 0x11));
    expect(await out.isEnded()).toBe(true);
    const much = await Client.ready(server, style);
    const length = style === 'extended' ? 2n ** 40n : 0xffffffffn;
    await much.request(1, 0, length, { flags: style === 'extended' ? 32 : 0 });
    expect(await much.isEnded()).toBe(true);
  });

  it('say what is wrong while the server closes', async () => {
    let letGo = (): void => {};
    const held = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    runtime.plan = async (operation, perform) => {
      if (operation.kind === 'read') await held;
      return perform();
    };
    const slow = new NbdServer({ vda: disk }, { ioTimeout: 60_000 });
    const client = await Client.ready(slow, style);
    await client.request(0, 0, 512, { cookie: 1n });
    await new Promise((resolve) => setTimeout(resolve, 20));
    const closed = slow.close();
    await client.request(0, 512, 512, { cookie: 2n });
    expect(await client.reply()).toMatchObject({ cookie: 2n, error: 108 });
    letGo();
    const first = await client.chunks(512);
    expect(first[0]).toMatchObject({ cookie: 1n, error: 0 });
    expect(await client.isEnded()).toBe(true);
    await closed;
  });

  it('wait for a base in trouble, and not for ever', async () => {
    let failures = 2;
    runtime.plan = async (operation, perform) => {
      if (operation.kind === 'read' && operation.file === 'base.raw' && failures-- > 0)
        throw new MillraceError('EIO', 'base.raw: the line is down');
      return perform();
    };
    const patient = new NbdServer({ vda: disk }, { ioTimeout: 5_000 });
    const client = await Client.ready(patient, style);
    expect(await client.read(0, 512)).toEqual(Buffer.from(base.slice(0, 512)));
    await client.close();
    failures = Number.POSITIVE_INFINITY;
    const hasty = await Client.ready(server, style);
    await hasty.request(0, MIB, 512);
    const [failed] = await hasty.chunks(512);
    expect(failed.error).toBe(5);
    if (style !== 'simple') expect(String(failed.data.subarray(6))).toContain('the line is down');
    // What is written over is not asked of the base.
    failures = 0;
    expect(await hasty.read(MIB, 512)).toEqual(Buffer.from(base.slice(MIB, MIB + 512)));
    await hasty.close();
    await patient.close();
  });

  it('come in any order, and hold a client up that does not read them', async () => {
    const client = await Client.ready(server, style);
    const count = 3 * limits.REQUESTS_IN_FLIGHT_MAX;
    const sends = Promise.all(
      Array.from({ length: count }, (_, index) =>
        client.request(0, index * 512, 512, { cookie: BigInt(index) }),
      ),
    );
    const seen = new Set<bigint>();
    for (let i = 0; i < count; i++) seen.add((await client.chunks(512))[0].cookie);
    await sends;
    expect(seen.size).toBe(count);
    await client.close();
  });
});

describe('extended headers', () => {
  it('tell 64-bit lengths, and filter contexts by a payload', async () => {
    const client = await Client.ready(server, 'extended', [
      'base:allocation',
      'qemu:allocation-depth',
    ]);
    await client.request(7, 0, SIZE);
    const chunks = await client.chunks();
    expect(chunks.map(({ type }) => type)).toEqual([6, 6]);
    expect(chunks[1].data.readUInt32BE(0)).toBe(1);
    expect(chunks[1].data.readUInt32BE(4)).toBe((chunks[1].data.length - 8) / 16);
    expect(chunks[1].data.readBigUInt64BE(8)).toBe(BigInt(SIZE));
    const filter = Buffer.alloc(12);
    filter.writeBigUInt64BE(BigInt(SIZE));
    filter.writeUInt32BE(1, 8);
    await client.request(7, 0, filter.length, { flags: 32, payload: filter });
    const [only, ...rest] = await client.chunks();
    expect([only.data.readUInt32BE(0), rest.length]).toEqual([1, 0]);
    filter.writeUInt32BE(5, 8);
    await client.request(7, 0, filter.length, { flags: 32, payload: filter });
    expect(await client.reply()).toMatchObject({ error: 22 });
    // A payload where none belongs is passed over.
    await client.request(3, 0, 100, { flags: 32, payload: Buffer.alloc(100) });
    expect(await client.reply()).toMatchObject({ error: 22 });
    // A write that does not say that its data follows has none.
    await client.request(1, 0, 512);
    expect(await client.reply()).toMatchObject({ error: 22 });
    await client.request(6, 0, SIZE);
    expect(await client.reply()).toMatchObject({ error: 0, type: 0 });
    expect((await client.read(0, MIB)).every((byte) => byte === 0)).toBe(true);
    await client.close();
  });

  it('go with NBD_OPT_GO only, and before structured replies', async () => {
    const client = await Client.greeted(server);
    expect((await client.option(8))[0].type).toBe(1);
    expect((await client.option(11, Buffer.alloc(1)))[0].type).toBe(ERR + 3);
    expect((await client.option(11))[0].type).toBe(1);
    expect((await client.option(8))[0].type).toBe(ERR + 10);
    await client.send(optionHeader(1, 3), Buffer.from('vda'));
    expect(await client.isEnded()).toBe(true);
  });
});

describe('a change that was given up', () => {
  it('does not come after one that is made later', async () => {
    const held: (() => void)[] = [];
    runtime.plan = async (operation, perform) => {
      if (operation.kind === 'read' && operation.file === 'base.raw')
        await new Promise<void>((resolve) => held.push(resolve));
      return perform();
    };
    const client = await Client.ready(server, 'structured');
    // Part of a cluster: the rest of it is fetched first.
    await client.request(1, 100, 3, { payload: Buffer.from('old'), cookie: 1n });
    expect(await client.reply()).toMatchObject({ cookie: 1n, error: 5 });
    const other = await Client.ready(server, 'simple');
    await other.request(1, 100, 3, { payload: Buffer.from('new'), cookie: 2n });
    await new Promise((resolve) => setTimeout(resolve, 20));
    runtime.plan = undefined;
    for (const letGo of held) letGo();
    expect(await other.reply()).toMatchObject({ cookie: 2n, error: 0 });
    expect(String(await other.read(100, 3))).toBe('new');
    await other.close();
    await client.close();
  });
});
