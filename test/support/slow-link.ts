/**
 * A slow link: a TCP proxy on loopback with the delay and the bit rate of a long line, for tests,
 * benchmarks and the demo. It never changes, drops or reorders a byte of a connection, and never
 * holds more than a bounded amount of them.
 *
 * What it models: each way has one bit rate, shared by all connections in turns of a small piece,
 * and half the round trip as delay; a connection is open to its client one round trip after it was
 * accepted, so a first request is answered after two round trips and a further one after one, as
 * over a real line. Ends and resets travel with the same delay, behind the bytes before them; what
 * a sender had under way when its peer reset still takes its share of the line. What it does not
 * model: loss, the slow start of TCP (a connection may use the whole rate at once), and packet
 * headers (the rate is that of payload bytes). The kernel completes a client's `connect` at once,
 * so that call alone looks quicker than it would; its first bytes pay for it.
 */

import type { ChildProcess } from 'node:child_process';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import type { AddressInfo, Socket } from 'node:net';
import { connect, createServer } from 'node:net';
import { performance } from 'node:perf_hooks';
import { fileURLToPath, pathToFileURL } from 'node:url';

export interface SlowLinkOptions {
  /** The server behind the link. */
  target: { host: string; port: number };
  /** Milliseconds there and back, 0 or more. */
  roundTripMs: number;
  /** Bits a second of the whole link, each way. */
  bitsPerSecond: number;
}

/** What has gone over a link since it started. */
export interface LinkTraffic {
  /**
   * Payload bytes sent over the line: `up` from clients to the target, `down` from the target to
   * clients.
   */
  bytes: { up: number; down: number };
  /** Connections accepted. */
  connections: number;
}

interface LinkAddress {
  /** On 127.0.0.1. */
  port: number;
  /** `http://127.0.0.1:<port><path>`; the path begins with a slash. */
  url(path: string): string;
  /** Ends every connection and stops listening. */
  stop(): Promise<void>;
}

/** A link in this process: the counters are always current. */
export interface SlowLink extends LinkAddress, Readonly<LinkTraffic> {}

/** A link in a process of its own: the counters are asked for. */
export interface SlowLinkProcess extends LinkAddress {
  readonly pid: number;
  traffic(): Promise<LinkTraffic>;
}

/**
 * Bytes that a connection may send before it is another one's turn: a millisecond of the line,
 * within these bounds.
 */
const TURN_BYTES_MIN = 1024;
const TURN_BYTES_MAX = 16 * 1024;
/**
 * Pieces are put on the line this long before it is free: timers are no finer than a millisecond,
 * and often late.
 */
const AHEAD_MS = 4;
/**
 * What is due within this time is delivered now: half a timer's grain, so that the error is as
 * often early as late.
 */
const EARLY_MS = 0.5;
/**
 * A sender is paused when so much of its bytes waits for the line (or for their receiver), and
 * resumed at half of it: enough to ride out a late turn of the event loop.
 */
const WAITING_MS = 30;
const WAITING_BYTES_MIN = 256 * 1024;

/** Starts a link in this process. */
export async function startSlowLink(options: SlowLinkOptions): Promise<SlowLink> {
  const delayMs = options.roundTripMs / 2;
  const bytesPerMs = options.bitsPerSecond / 8 / 1000;
  if (!(delayMs >= 0) || !(bytesPerMs > 0))
    throw new RangeError('a link needs a round trip of 0 ms or more and a rate above 0');
  const up = new Line(bytesPerMs, delayMs);
  const down = new Line(bytesPerMs, delayMs);
  const sockets = new Set<Socket>();
  let connections = 0;

  const track = (socket: Socket): void => {
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.once('close', () => sockets.delete(socket));
  };
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
    connections++;
    track(client);
    // An error before the connection stands has no one to be told to yet; the lanes notice the
    // closed socket later.
    client.on('error', () => {});
    const toTarget = new Lane(up, client);
    toTarget.control(() => {
      const target = connect({ ...options.target, allowHalfOpen: true });
      track(target);
      const toClient = new Lane(down, target);
      toTarget.receiver = target;
      toClient.receiver = client;
      toTarget.opposite = toClient;
      toClient.opposite = toTarget;
      target.once('connect', () => {
        toClient.start();
        toClient.control(() => toTarget.start());
      });
      target.once('error', () => toClient.reset());
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  return {
    port,
    url: (path) => `http://127.0.0.1:${port}${path}`,
    get bytes() {
      return { up: up.bytes, down: down.bytes };
    },
    get connections() {
      return connections;
    },
    async stop() {
      const closed = once(server, 'close');
      server.close();
      up.stop();
      down.stop();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** Bytes, or something that happens in their order: a connection opens, ends, is reset. */
type Segment = Uint8Array | (() => void);

interface Flying {
  lane: Lane;
  segment: Segment;
  dueMs: number;
}

/**
 * One direction of the link: whose turn it is, and what is under way. All connections share its
 * rate.
 */
class Line {
  /** Bytes put on the line so far. */
  bytes = 0;
  readonly waitingBytesMax: number;
  private readonly turnBytes: number;
  private readonly bytesPerMs: number;
  private readonly delayMs: number;
  /** Lanes with something to send, the next one first. */
  private readonly turns: Queue<Lane> = new Queue();
  /** In the order they left, and so of their arrival. */
  private readonly flying: Queue<Flying> = new Queue();
  /** When the line has sent all it was given. */
  private freeAtMs = 0;
  private timer: NodeJS.Timeout | undefined;
  private timerAtMs = Infinity;

  constructor(bytesPerMs: number, delayMs: number) {
    this.bytesPerMs = bytesPerMs;
    this.delayMs = delayMs;
    this.waitingBytesMax = Math.max(WAITING_BYTES_MIN, Math.ceil(bytesPerMs * WAITING_MS));
    this.turnBytes = Math.ceil(Math.min(Math.max(bytesPerMs, TURN_BYTES_MIN), TURN_BYTES_MAX));
  }

  /** A lane has something to send; it may have been waiting for its turn already. */
  wake(lane: Lane): void {
    if (lane.inTurn) return;
    lane.inTurn = true;
    // The line was idle until this moment; after a busy one, `freeAtMs` stays what it was, so that
    // a late timer costs no throughput.
    if (this.turns.length === 0) this.freeAtMs = Math.max(this.freeAtMs, performance.now());
    this.turns.push(lane);
    this.send(performance.now());
    this.arm();
  }

  stop(): void {
    clearTimeout(this.timer);
    this.turns.clear();
    this.flying.clear();
  }

  private run(): void {
    this.timer = undefined;
    this.timerAtMs = Infinity;
    const nowMs = performance.now();
    this.send(nowMs);
    this.deliver(nowMs);
    this.arm();
  }

  /**
   * Gives the line what it can take until shortly after `nowMs`, one piece of each waiting lane in
   * turn.
   */
  private send(nowMs: number): void {
    while (this.turns.length > 0 && this.freeAtMs <= nowMs + AHEAD_MS) {
      const lane = this.turns.shift();
      lane.inTurn = false;
      const segment = lane.take(this.turnBytes);
      if (segment === undefined) continue;
      if (typeof segment !== 'function') {
        this.freeAtMs += segment.length / this.bytesPerMs;
        this.bytes += segment.length;
      }
      this.flying.push({ lane, segment, dueMs: this.freeAtMs + this.delayMs });
      if (!lane.hasWaiting) continue;
      lane.inTurn = true;
      this.turns.push(lane);
    }
  }

  private deliver(nowMs: number): void {
    const reached = new Set<Lane>();
    while (this.flying.length > 0 && this.flying.first.dueMs <= nowMs + EARLY_MS) {
      const { lane, segment } = this.flying.shift();
      if (!reached.has(lane)) lane.receiver?.cork();
      reached.add(lane);
      if (typeof segment === 'function') segment();
      else lane.receive(segment);
    }
    for (const lane of reached) lane.receiver?.uncork();
  }

  private arm(): void {
    const deliverAtMs = this.flying.length > 0 ? this.flying.first.dueMs - EARLY_MS : Infinity;
    const sendAtMs = this.turns.length > 0 ? this.freeAtMs - AHEAD_MS : Infinity;
    const atMs = Math.min(deliverAtMs, sendAtMs);
    if (atMs === Infinity || this.timerAtMs <= atMs) return;
    clearTimeout(this.timer);
    this.timerAtMs = atMs;
    this.timer = setTimeout(() => this.run(), atMs - performance.now());
  }
}

/**
 * One direction of one connection: reads its sender, queues for the line, writes what arrives to
 * its receiver.
 */
class Lane {
  /** Whether the line has it among its turns. */
  inTurn = false;
  receiver: Socket | undefined;
  opposite: Lane | undefined;
  private readonly line: Line;
  private readonly sender: Socket;
  private readonly waiting: Queue<Segment> = new Queue();
  private waitingBytes = 0;
  private started = false;
  private isReset = false;

  constructor(line: Line, sender: Socket) {
    this.line = line;
    this.sender = sender;
  }

  get hasWaiting(): boolean {
    return this.waiting.length > 0;
  }

  /** Starts reading the sender. */
  start(): void {
    this.started = true;
    this.sender.on('data', (bytes: Buffer) => {
      this.waitingBytes += bytes.length;
      this.enqueue(bytes);
      this.throttle();
    });
    this.sender.once('end', () => this.control(() => this.receiver?.end()));
    this.sender.once('close', (hadError) => {
      if (hadError) this.reset();
    });
    this.sender.on('drain', () => this.opposite?.throttle());
    if (this.sender.errored) this.reset();
    this.sender.resume();
  }

  /** Sends something that takes no bytes but keeps its place among them. */
  control(happen: () => void): void {
    this.enqueue(happen);
  }

  /**
   * The sender is gone: its receiver learns it behind the bytes under way, and until then its own
   * bytes keep coming.
   */
  reset(): void {
    if (this.isReset) return;
    this.isReset = true;
    this.control(() => {
      this.opposite?.drop();
      this.receiver?.resetAndDestroy();
    });
  }

  /** The next piece for the line, of `bytesMax` at most. */
  take(bytesMax: number): Segment | undefined {
    if (this.waiting.length === 0) return undefined;
    const first = this.waiting.first;
    if (typeof first === 'function') return this.waiting.shift();
    const piece = first.subarray(0, bytesMax);
    if (piece.length === first.length) this.waiting.shift();
    else this.waiting.first = first.subarray(bytesMax);
    this.waitingBytes -= piece.length;
    this.throttle();
    return piece;
  }

  /** Bytes have arrived. Those for a receiver that is gone are lost, as they would be. */
  receive(bytes: Uint8Array): void {
    if (this.receiver === undefined || this.receiver.destroyed || this.receiver.writableEnded)
      return;
    this.receiver.write(bytes);
    this.throttle();
  }

  private enqueue(segment: Segment): void {
    this.waiting.push(segment);
    this.line.wake(this);
  }

  /**
   * Reads on only while few bytes wait: for the line, or for a receiver that does not take them.
   */
  private throttle(): void {
    if (!this.started) return;
    const held = this.waitingBytes + (this.receiver?.writableLength ?? 0);
    if (held >= this.line.waitingBytesMax) this.sender.pause();
    else if (held <= this.line.waitingBytesMax / 2 && this.sender.isPaused()) this.sender.resume();
  }

  /** What has not left yet never will. */
  private drop(): void {
    this.waiting.clear();
    this.waitingBytes = 0;
  }
}

/** A first-in first-out queue without a copy a step: an array with a moving start. */
class Queue<T> {
  private items: T[] = [];
  private start = 0;

  get length(): number {
    return this.items.length - this.start;
  }
  get first(): T {
    return this.items[this.start];
  }
  set first(item: T) {
    this.items[this.start] = item;
  }

  push(item: T): void {
    this.items.push(item);
  }

  shift(): T {
    const item = this.items[this.start];
    this.items[this.start++] = undefined as T;
    if (this.start === this.items.length) this.clear();
    else if (this.start >= 1024 && this.start * 2 >= this.items.length) this.compact();
    return item;
  }

  clear(): void {
    this.items = [];
    this.start = 0;
  }

  private compact(): void {
    this.items = this.items.slice(this.start);
    this.start = 0;
  }
}

/**
 * Starts a link in a process of its own, so that it takes no time from the event loop of the
 * program under measurement. It ends with this process.
 */
export async function startSlowLinkProcess(options: SlowLinkOptions): Promise<SlowLinkProcess> {
  const file = fileURLToPath(import.meta.url);
  const loader = file.endsWith('.ts')
    ? ['--import', pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href]
    : [];
  const child = fork(file, [JSON.stringify(options)], {
    execArgv: loader,
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const exited = once(child, 'exit');
  const { port } = await answer<{ port: number }>(child);
  return {
    port,
    pid: child.pid!,
    url: (path) => `http://127.0.0.1:${port}${path}`,
    traffic() {
      child.send('traffic');
      return answer<LinkTraffic>(child);
    },
    async stop() {
      if (child.connected) child.disconnect();
      await exited;
    },
  };
}

/** The child's next message. */
async function answer<T>(child: ChildProcess): Promise<T> {
  const ended = new AbortController();
  try {
    const message = once(child, 'message', { signal: ended.signal });
    const exit = once(child, 'exit', { signal: ended.signal }).then(() => {
      throw new Error('the slow link ended by itself');
    });
    return ((await Promise.race([message, exit])) as [T])[0];
  } finally {
    ended.abort();
  }
}

/** What the child of `startSlowLinkProcess` does. */
async function serve(options: SlowLinkOptions): Promise<void> {
  process.on('disconnect', () => process.exit());
  const link = await startSlowLink(options);
  process.on('message', () => process.send!({ bytes: link.bytes, connections: link.connections }));
  process.send!({ port: link.port });
}

if (process.send !== undefined && process.argv[1] === fileURLToPath(import.meta.url))
  await serve(JSON.parse(process.argv[2]));
