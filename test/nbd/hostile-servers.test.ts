/**
 * What servers may say that they must not: an error by name, no hang, and no memory taken for it.
 */
import { describe, expect, it } from 'vitest';
import type { NbdSource } from '../../hosts/bases/nbd/nbd.ts';
import { openNbdWith } from '../../hosts/bases/nbd/nbd.ts';
import { pair, u32 } from './client.ts';

const SIZE = 1024 * 1024;

/** A request as it comes. */
interface Asked {
  type: number;
  cookie: Buffer;
  offset: number;
  length: number;
}

/** What is sent back; undefined for nothing, and `cut` for an end of the connection. */
type Answer = (asked: Asked) => Buffer[] | 'cut' | undefined;

interface Habits {
  greeting?: Buffer;
  /** Replies to options, by their numbers; for others as a good server has them. */
  options?: Record<number, (option: number) => Buffer[] | 'cut'>;
  answer?: Answer;
}

const content = Buffer.from(Array.from({ length: SIZE }, (_, at) => 1 + (at % 251)));
const GREETING = Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), Buffer.from([0, 3])]);

function reply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const head = [Buffer.from('0003e889045565a9', 'hex'), u32(option), u32(type), u32(data.length)];
  return Buffer.concat([...head, data]);
}

function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

function info(size: number | bigint, blocks = [1, 4096, 2 ** 25], flags = 0x101): Buffer[] {
  const exported = Buffer.concat([
    Buffer.alloc(2),
    u64(size),
    Buffer.from([flags >> 8, flags & 255]),
  ]);
  return [
    reply(7, 3, exported),
    reply(7, 3, Buffer.concat([Buffer.from([0, 3]), ...blocks.map(u32)])),
    reply(7, 1),
  ];
}

/** A chunk of a structured reply. */
function chunk(
  asked: Asked,
  type: number,
  data: Buffer,
  done = true,
  length = data.length,
): Buffer {
  const head = Buffer.from('668e33ef00000000', 'hex');
  head.writeUInt16BE(done ? 1 : 0, 4);
  head.writeUInt16BE(type, 6);
  return Buffer.concat([head, asked.cookie, u32(length), data]);
}

function data(asked: Asked, from: number, to: number, done = true): Buffer {
  return chunk(asked, 1, Buffer.concat([u64(from), content.subarray(from, to)]), done);
}

function whole(asked: Asked): Buffer[] {
  return [data(asked, asked.offset, asked.offset + asked.length)];
}

function status(asked: Asked, context: number, descriptors: [number, number][]): Buffer {
  return chunk(asked, 5, Buffer.concat([u32(context), ...descriptors.flat().map(u32)]));
}

/** A server of structured replies with these habits, over memory; each connection is a new one. */
async function serve(
  { readable, writable }: ReturnType<typeof pair>['far'],
  habits: Habits,
): Promise<void> {
  const reader = readable.getReader();
  const writer = writable.getWriter();
  let buffer = Buffer.alloc(0);
  const take = async (length: number): Promise<Buffer> => {
    while (buffer.length < length) {
      const { done, value } = await reader.read();
      if (done) throw new Error('ended');
      buffer = Buffer.concat([buffer, value]);
    }
    const bytes = buffer.subarray(0, length);
    buffer = buffer.subarray(length);
    return bytes;
  };
  const send = async (parts: Buffer[] | 'cut' | undefined): Promise<void> => {
    if (parts === 'cut') throw new Error('cut');
    for (const part of parts ?? []) await writer.write(part);
  };
  try {
    await writer.write(habits.greeting ?? GREETING);
    await take(4);
    for (let option = 0, last = habits.options?.[1] ? 1 : 7; option !== last; ) {
      const head = await take(16);
      option = head.readUInt32BE(8);
      await take(head.readUInt32BE(12));
      await send(habits.options?.[option]?.(option) ?? good(option));
    }
    for (;;) {
      const head = await take(28);
      const [offset, length] = [Number(head.readBigUInt64BE(16)), head.readUInt32BE(24)];
      const type = head.readUInt16BE(6);
      if (type === 2) break;
      await send(
        (habits.answer ?? whole)({
          type,
          cookie: Buffer.from(head.subarray(8, 16)),
          offset,
          length,
        }),
      );
    }
  } catch {
    // The other end has gone, or is to find this one gone.
  }
  await Promise.allSettled([writer.close(), reader.cancel()]);
}

function good(option: number): Buffer[] {
  if (option === 11) return [reply(11, 0x80000001)];
  if (option === 10)
    return [reply(10, 4, Buffer.concat([u32(5), Buffer.from('base:allocation')])), reply(10, 1)];
  return option === 7 ? info(SIZE) : [reply(option, 1)];
}

function openFrom(habits: Habits, options = {}): Promise<NbdSource> {
  const connect = async () => {
    const { near, far } = pair();
    void serve(far, habits);
    return near;
  };
  return openNbdWith(connect, 'nbd://hostile/x', { retries: 1, timeout: 500, ...options });
}

async function failureOf(habits: Habits): Promise<string> {
  try {
    const source = await openFrom(habits);
    const reading = source.read(1000, new Uint8Array(5000));
    const error = await reading.then(
      () => undefined,
      (error) => error,
    );
    await source.close();
    return error === undefined ? 'nothing' : `${error.code} ${error.message}`;
  } catch (error) {
    return `${(error as { code: string }).code} ${(error as Error).message}`;
  }
}

const READ_CASES: [string, Answer, RegExp][] = [
  [
    'more than was asked for',
    (a) => [chunk(a, 1, u64(a.offset), true, 2 ** 31)],
    /were not asked for/,
  ],
  [
    'bytes of elsewhere',
    (a) => [data(a, a.offset + 4096, a.offset + 4096 + a.length)],
    /not asked for/,
  ],
  ['bytes twice', (a) => [data(a, a.offset, a.offset + 100, false), ...whole(a)], /twice/],
  [
    'a hole over bytes',
    (a) => [
      data(a, a.offset, a.offset + 100, false),
      chunk(a, 2, Buffer.concat([u64(a.offset + 99), u32(100)])),
    ],
    /twice/,
  ],
  ['too little', (a) => [data(a, a.offset, a.offset + a.length - 1)], /a reply has gaps/],
  ['an empty chunk', (a) => [chunk(a, 1, u64(a.offset))], /the type 1 and 8 bytes/],
  ['a type that there is not', (a) => [chunk(a, 9, Buffer.alloc(4))], /the type 9 and 4 bytes/],
  ['blocks in place of bytes', (a) => [status(a, 5, [[4096, 0]])], /the type 5/],
  ['a reply to nobody', (a) => whole({ ...a, cookie: Buffer.alloc(8, 0x55) }), /to no request/],
  ['a simple reply', (a) => [Buffer.from('6744669800000000', 'hex'), a.cookie], /not of the kind/],
  ['rubbish', () => [Buffer.alloc(64, 0x33)], /what comes is no reply/],
  [
    'an error without an end',
    (a) => [chunk(a, 0x8001, Buffer.alloc(0), true, 2 ** 31)],
    /too long/,
  ],
  [
    'an error of nothing',
    (a) => [chunk(a, 0x8001, Buffer.alloc(6))],
    /an error contradicts itself/,
  ],
  [
    'an error cut off',
    (a) => [chunk(a, 0x8001, Buffer.from([0, 0, 0, 5, 9, 9]))],
    /contradicts itself/,
  ],
  [
    'an error that there is not',
    (a) => [chunk(a, 0x8fff, Buffer.from([0, 0, 9, 9, 0, 0]))],
    /error 2313/,
  ],
  [
    'what it does not allow',
    (a) => [chunk(a, 0x8001, Buffer.from('00000001000373617a', 'hex'))],
    /EACCES .*does not allow it: saz/,
  ],
  ['an end in the middle', () => 'cut', /after 2 attempts: the other side ended the connection/],
  ['nothing', () => undefined, /ETIMEDOUT .*has not answered within 0.5 s/],
];

describe('a server that answers a read with', () => {
  for (const [what, answer, message] of READ_CASES)
    it(what, async () => expect(await failureOf({ answer })).toMatch(message));

  it('very many pieces', async () => {
    const answer: Answer = (asked) =>
      Array.from({ length: asked.length / 2 }, (_, i) =>
        data(asked, asked.offset + 2 * i, asked.offset + 2 * i + 1, false),
      );
    const source = await openFrom({ answer });
    await expect(source.read(0, new Uint8Array(65536))).rejects.toThrow('more than 4096 pieces');
    await source.close();
  });

  it('pieces in any order is read', async () => {
    const answer: Answer = (asked) => {
      const pieces: Buffer[] = [];
      for (let at = asked.offset + asked.length; at > asked.offset; at -= 512)
        pieces.push(data(asked, at - 512, at, false));
      return [...pieces, chunk(asked, 0, Buffer.alloc(0))];
    };
    const source = await openFrom({ answer });
    const bytes = Buffer.alloc(30_000);
    await source.read(777, bytes);
    expect(bytes.equals(content.subarray(777, 30_777))).toBe(true);
    await source.close();
  });
});

const OPENING_CASES: [string, Habits, RegExp][] = [
  ['is none', { greeting: Buffer.from('HTTP/1.1 400 Bad Request\r\n') }, /EIO .*no NBD server/],
  [
    'is old',
    {
      greeting: Buffer.concat([
        Buffer.from('NBDMAGIC'),
        Buffer.from('00004202818612530000', 'hex'),
      ]),
    },
    /EUNSUPPORTED .*an old form/,
  ],
  ['answers another option', { options: { 11: () => [reply(8, 1)] } }, /answers another option/],
  [
    'answers without an end',
    { options: { 10: () => Array.from({ length: 1100 }, () => reply(10, 4)) } },
    /more than 1024 answers/,
  ],
  [
    'answers at great length',
    { options: { 10: () => [Buffer.concat([reply(10, 4).subarray(0, 16), u32(2 ** 31)])] } },
    /2147483648 bytes to an option/,
  ],
  ['tells no size', { options: { 7: () => [reply(7, 1)] } }, /tells no size/],
  [
    'tells a size in part',
    { options: { 7: () => [reply(7, 3, Buffer.alloc(5)), reply(7, 1)] } },
    /has 3 bytes, not 10/,
  ],
  ['is larger than numbers are', { options: { 7: () => info(2n ** 62n) } }, /more than 8 PiB/],
  [
    'tells of blocks of 3',
    { options: { 7: () => info(SIZE, [3, 4096, 8192]) } },
    /invalid block sizes: 3, 4096 and 8192/,
  ],
  [
    'tells of no largest block',
    { options: { 7: () => info(SIZE, [512, 4096, 0]) } },
    /4096 and 0 bytes/,
  ],
  [
    'tells no flags',
    { options: { 7: () => info(SIZE, [1, 512, 512], 0) } },
    /its flags of the export/,
  ],
  ['is shutting down', { options: { 7: () => [reply(7, 0x80000007)] } }, /is shutting down/],
  [
    'does not allow it',
    { options: { 7: () => [reply(7, 0x80000002, Buffer.from('go away'))] } },
    /EACCES .*: go away/,
  ],
  ['hangs up', { options: { 7: () => 'cut' } }, /the other side ended the connection/],
  [
    'has an old way only, and no such export',
    { options: { 7: () => [reply(7, 0x80000001)], 1: () => 'cut' } },
    /has no export 'x'/,
  ],
];

describe('a server that, when it is opened,', () => {
  for (const [what, habits, message] of OPENING_CASES)
    it(what, async () => expect(await failureOf(habits)).toMatch(message));

  it('has no TLS is told nothing without it', async () => {
    const connect = async () => {
      const { near, far } = pair();
      void serve(far, { options: { 5: () => [reply(5, 0x80000001)] } });
      return near;
    };
    await expect(openNbdWith(connect, 'nbds://hostile/x')).rejects.toThrow('has no TLS');
  });
});

describe('where data is', () => {
  const blocks = async (answer: Answer): Promise<unknown> => {
    const source = await openFrom({ answer });
    const found = await source.nextData!(4096);
    await source.close();
    return found;
  };
  const all = { start: 4096, end: SIZE };

  it('is as the server tells, of which a hole that is not zero is data', async () => {
    const told: [number, number][] = [
      [4096, 3],
      [4096, 2],
      [4096, 1],
      [2 ** 31, 0],
    ];
    expect(await blocks((a) => [status(a, 5, told)])).toEqual({ start: 12288, end: SIZE });
    expect(await blocks((a) => [status(a, 5, [[SIZE, 3]])])).toBe(undefined);
  });

  it('is everywhere, where the server tells nothing that can be', async () => {
    for (const answer of [
      (a) => [status(a, 5, [[0, 3]])],
      (a) => [status(a, 6, [[SIZE, 3]])],
      (a) => [status(a, 5, [])],
      (a) => [chunk(a, 5, Buffer.alloc(7))],
      (a) => [chunk(a, 0, Buffer.alloc(0))],
      (a) => [chunk(a, 5, Buffer.alloc(0), true, 2 ** 31)],
      (a) => [chunk(a, 0x8001, Buffer.from([0, 0, 0, 22, 0, 0]))],
      () => 'cut',
      () => undefined,
    ] as Answer[])
      expect(await blocks(answer)).toEqual(all);
  });

  it('is asked no more of a server that tells of it in crumbs', async () => {
    let asked = 0;
    const source = await openFrom({
      options: { 7: () => info(2 ** 40) },
      answer: (a) => {
        asked++;
        return [status(a, 5, [[4096, 3]])];
      },
    });
    expect(await source.nextData!(0)).toEqual({ start: 32 * 4096, end: 2 ** 40 });
    expect(asked).toBe(32);
    await source.close();
  });
});

it('ends what is under way when the base is closed, or nobody waits any more', async () => {
  const source = await openFrom({ answer: () => undefined }, { timeout: 60_000 });
  const abort = new AbortController();
  const read = source.read(0, new Uint8Array(10), { signal: abort.signal });
  abort.abort(new Error('not wanted'));
  await expect(read).rejects.toThrow('not wanted');
  const other = source.read(0, new Uint8Array(10));
  const closed = source.close();
  await expect(other).rejects.toMatchObject({ code: 'ECLOSED' });
  await closed;
  await expect(source.read(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'ECLOSED' });
});
