/**
 * One case of hostile clients: connections that cut, reorder, oversize and damage what they send,
 * or send and never read, beside an honest one on another disk of the same server. Whatever they
 * do, the honest one gets the right bytes, every connection ends, and the images are sound.
 */
import type { Disk } from '../../hosts/api/disk.ts';
import { NbdServer } from '../../hosts/faces/nbd/server.ts';
import { Random } from '../fixtures/content.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { Client, goData, metaContexts, optionHeader, request, u32 } from './client.ts';

const KIB = 1024;
const DISK_BYTES = 512 * KIB;
const HOSTILE_MAX = 8;
const MESSAGES_MAX = 12;
const HONEST_ROUNDS = 12;
const HONEST = 'honest-7f3a';
/** Decides only that something hangs. */
const HANG_MS = 30_000;
const STYLES = ['simple', 'structured', 'extended'] as const;
type Style = (typeof STYLES)[number];

/** @throws what went wrong. */
export async function runHostileClients(seed: number): Promise<void> {
  const random = new Random(seed);
  const runtime = new MemoryRuntime();
  const disks: Record<string, Disk> = {};
  for (const name of [HONEST, 'target']) {
    runtime.add(`${name}.raw`, new Uint8Array(DISK_BYTES).fill(0x11));
    const images = { overlay: `${name}.qcow2`, base: `${name}.raw`, baseFormat: 'raw' } as const;
    disks[name] = await runtime.create({ ...images, clusterSize: 4096 });
  }
  const server = new NbdServer(disks, { ioTimeout: 2000, handshakeTimeout: 2000 });
  const honest = await Client.ready(server, anyOf(random, STYLES), [], HONEST);
  const hostile = Array.from({ length: random.between(1, HOSTILE_MAX) }, () =>
    attack(server, new Random(random.next())),
  );
  await inTime('the honest client', beHonest(honest, new Random(random.next())));
  await inTime('the hostile clients', Promise.all(hostile));
  await inTime(
    'their ends',
    until(() => server.connections === 1),
  );
  await inTime('the honest client', beHonest(honest, new Random(random.next())));
  await honest.close();
  await inTime('the end of the server', server.close());
  for (const [name, disk] of Object.entries(disks)) {
    const { corruptions, leaks } = await disk.check();
    if (corruptions > 0 || leaks > 0) throw new Error(`${name} is damaged`);
    await disk.close();
  }
}

/** Writes, and reads all that it wrote. */
async function beHonest(client: Client, random: Random): Promise<void> {
  for (let round = 0; round < HONEST_ROUNDS; round++) {
    const length = random.between(1, 20_000);
    const offset = random.between(0, DISK_BYTES - length);
    const payload = Buffer.alloc(length, 1 + (random.next() % 255));
    const flags = client.style === 'extended' ? 32 : 0;
    await client.request(1, offset, length, { flags, payload, cookie: BigInt(round) });
    const { error, cookie } = await client.reply();
    if (error !== 0 || cookie !== BigInt(round)) throw new Error(`a write ended with ${error}`);
    if (!(await client.read(offset, length)).equals(payload)) throw new Error('wrong bytes');
  }
}

async function attack(server: NbdServer, random: Random): Promise<void> {
  const client = new Client(server);
  const reads = random.next() % 4 > 0;
  // One that never reads is let go of when it ends; so long, it holds up nobody else.
  const reading = reads ? drain(client) : undefined;
  const sending = sendAll(client, damaged(script(random), random), random);
  // What is sent to a server that does not read, for want of room, does not end.
  await Promise.race([sending, pause(200)]);
  await client.close();
  await reading;
  await client.served;
}

/** What a client might send, in messages. */
function script(random: Random): Buffer[] {
  const style = anyOf(random, STYLES);
  const messages = [u32(random.next() % 8 === 0 ? random.next() : 3)];
  const option = (number: number, data: Buffer = Buffer.alloc(0)): void => {
    messages.push(Buffer.concat([optionHeader(number, data.length), data]));
  };
  for (let count = random.next() % 4; count > 0; count--) option(...anyOption(random));
  if (style !== 'simple') option(style === 'extended' ? 11 : 8);
  if (style !== 'simple' && random.next() & 1)
    option(10, metaContexts('target', ['base:allocation', 'qemu:allocation-depth']));
  option(7, goData('target', [3]));
  for (let count = random.between(0, MESSAGES_MAX); count > 0; count--)
    messages.push(anyRequest(style, random));
  return messages;
}

function anyOption(random: Random): [number, Buffer] {
  const name = anyOf(random, ['target', '', 'none', 'x'.repeat(5000)]);
  const data = anyOf(random, [
    Buffer.alloc(0),
    goData(name, [0, 1, 2, 3]),
    metaContexts(name, ['base:', 'base:allocation']),
    Buffer.alloc(random.between(1, 70_000), random.next()),
  ]);
  return [anyOf(random, [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 99, random.next()]), data];
}

function anyRequest(style: Style, random: Random): Buffer {
  const type = random.next() % 10;
  const flags = random.next() % 3 ? 0 : random.next() % 128;
  const far = random.next() % 6 === 0;
  const offset = BigInt(far ? random.next() : random.between(0, DISK_BYTES)) << (far ? 31n : 0n);
  const length = anyOf(random, [0, 1, 512, 4096, 65_536, DISK_BYTES, 0xffffffff, random.next()]);
  const header = request(style, type, offset, BigInt(length), flags, BigInt(random.next()));
  const carries = type === 1 || (style === 'extended' && flags & 32);
  return carries && length <= DISK_BYTES
    ? Buffer.concat([header, Buffer.alloc(length, random.next())])
    : header;
}

/** The messages as one run of bytes, with what a hostile client does to it. */
function damaged(messages: Buffer[], random: Random): Buffer {
  const list = [...messages];
  for (let count = random.next() % 3; count > 0; count--) {
    const [one, other] = [random.next() % list.length, random.next() % list.length];
    if (random.next() & 1) [list[one], list[other]] = [list[other], list[one]];
    else list.splice(one, 0, list[other]);
  }
  const bytes = Buffer.concat(list);
  for (let count = random.next() % 4; count > 0; count--)
    bytes[random.next() % bytes.length] = random.next();
  return random.next() % 3 ? bytes : bytes.subarray(0, random.next() % bytes.length);
}

/** In pieces of any length. */
async function sendAll(client: Client, bytes: Buffer, random: Random): Promise<void> {
  const most = anyOf(random, [1000, 70_000, bytes.length]);
  for (let at = 0; at < bytes.length; ) {
    const length = random.between(1, Math.max(1, most));
    await client.send(bytes.subarray(at, at + length));
    at += length;
  }
}

async function drain(client: Client): Promise<void> {
  try {
    for (;;) await client.take(1);
  } catch {
    // The end of it.
  }
}

function anyOf<T>(random: Random, list: readonly T[]): T {
  return list[random.next() % list.length];
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await pause(5);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function inTime<T>(what: string, work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not done in time`)), HANG_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
