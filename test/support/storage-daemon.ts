/**
 * QEMU's own daemon, qemu-storage-daemon: its block-stream job, and disks by NBD that it streams.
 */
import { spawn } from 'node:child_process';
import { performance } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import type { QemuFormat } from './qemu.ts';
import { RUN_MS_MAX } from './run.ts';

export interface BlockStreamOptions {
  /** A qcow2 overlay with a backing file. */
  overlay: string;
  /** Opened as the overlay's base in place of the one it records: a path or URL. */
  base?: string;
  baseFormat?: QemuFormat;
  /** Stream only down to this image of the chain, by the name that the chain records. */
  downTo?: string;
}

export interface BlockStreamResult {
  /** From the job's start to its completion event. */
  seconds: number;
  /** From the job's start to the daemon's end, with everything flushed and closed. */
  secondsWithClose: number;
}

/** A daemon with an overlay, until it is stopped. */
class StorageDaemon {
  readonly #child = spawn(
    'qemu-storage-daemon',
    ['--chardev', 'stdio,id=qmp', '--monitor', 'chardev=qmp'],
    { stdio: ['pipe', 'pipe', 'inherit'], timeout: RUN_MS_MAX },
  );
  readonly #ended = new Promise<void>((resolve, reject) => {
    this.#child.once('error', reject);
    this.#child.once('close', () => resolve());
  });
  readonly qmp: QmpClient = new QmpClient(this.#child.stdin, this.#child.stdout);

  async open(options: BlockStreamOptions): Promise<void> {
    await this.qmp.execute('qmp_capabilities');
    await this.qmp.execute('blockdev-add', overlayNode(options));
  }

  /** Starts the job; what is returned ends with it. */
  async stream({ overlay, downTo }: BlockStreamOptions): Promise<{ completed: Promise<void> }> {
    const event = this.qmp.event('BLOCK_JOB_COMPLETED') as Promise<{ error?: string }>;
    const job = { device: 'overlay', 'job-id': 'stream', base: downTo };
    await this.qmp.execute('block-stream', job);
    const completed = event.then(({ error }) => {
      if (error !== undefined) throw new Error(`block-stream on ${overlay}: ${error}`);
    });
    // It is awaited when the work beside it is done, if at all.
    completed.catch(() => {});
    return { completed };
  }

  async quit(): Promise<void> {
    await this.qmp.execute('quit');
    await this.#ended;
  }

  async stop(): Promise<void> {
    this.#child.kill();
    await this.#ended;
  }
}

/**
 * Runs QEMU's block-stream job on an overlay, in a qemu-storage-daemon of its own, and times it.
 */
export async function blockStreamJob(options: BlockStreamOptions): Promise<BlockStreamResult> {
  const daemon = new StorageDaemon();
  try {
    await daemon.open(options);
    const startMs = performance.now();
    await (await daemon.stream(options)).completed;
    const seconds = (performance.now() - startMs) / 1000;
    await daemon.quit();
    return { seconds, secondsWithClose: (performance.now() - startMs) / 1000 };
  } finally {
    await daemon.stop();
  }
}

/**
 * Serves an overlay as `vda` by NBD at a Unix socket while QEMU's block-stream job runs; `alone`
 * resolves when that has ended.
 */
export async function serveStreaming(
  options: BlockStreamOptions & { socket: string },
): Promise<{ alone: Promise<void>; stop(): Promise<void> }> {
  const daemon = new StorageDaemon();
  try {
    await daemon.open(options);
    const addr = { type: 'unix', data: { path: options.socket } };
    await daemon.qmp.execute('nbd-server-start', { addr });
    const disk = { id: 'vda', 'node-name': 'overlay', name: 'vda', writable: true };
    await daemon.qmp.execute('block-export-add', { type: 'nbd', ...disk });
    const { completed } = await daemon.stream(options);
    return { alone: completed, stop: () => daemon.stop() };
  } catch (error) {
    await daemon.stop();
    throw error;
  }
}

/** The `blockdev-add` arguments of an overlay. */
function overlayNode({ overlay, base, baseFormat }: BlockStreamOptions): object {
  const file = { driver: 'file', filename: overlay };
  const backing =
    base === undefined
      ? undefined
      : { driver: baseFormat ?? 'qcow2', 'read-only': true, file: protocolNode(base) };
  return { driver: 'qcow2', 'node-name': 'overlay', file, backing };
}

function protocolNode(location: string): object {
  const scheme = /^(https?):/.exec(location)?.[1];
  return scheme === undefined
    ? { driver: 'file', filename: location }
    : { driver: scheme, url: location };
}

interface QmpMessage {
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
  data?: unknown;
}

/**
 * QEMU's monitor protocol (docs/interop/qmp-spec.txt) over a pair of pipes: one command at a time,
 * and events by name.
 */
class QmpClient {
  private readonly input: Writable;
  private answer: { resolve(message: QmpMessage): void; reject(error: Error): void } | undefined;
  private readonly waiting: Map<
    string,
    { resolve(data: unknown): void; reject(error: Error): void }
  > = new Map();

  constructor(input: Writable, output: Readable) {
    this.input = input;
    // A daemon that ended closes its pipes; whoever waits then hears of it below.
    input.on('error', () => {});
    const lines = createInterface({ input: output });
    lines.on('line', (line) => this.receive(JSON.parse(line) as QmpMessage));
    lines.once('close', () => this.fail(new Error('qemu-storage-daemon ended by itself')));
  }

  /** Executes a command. @throws with QEMU's description when it is refused. */
  async execute(command: string, args: object = {}): Promise<unknown> {
    const answered = new Promise<QmpMessage>((resolve, reject) => {
      this.answer = { resolve, reject };
    });
    this.input.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    const message = await answered;
    if (message.error !== undefined) throw new Error(`QEMU ${command}: ${message.error.desc}`);
    return message.return;
  }

  /** The data of the next event of this name. */
  event(name: string): Promise<unknown> {
    const happened = new Promise((resolve, reject) => this.waiting.set(name, { resolve, reject }));
    // It is awaited only after the command that causes it, which may be the one to fail.
    happened.catch(() => {});
    return happened;
  }

  private receive(message: QmpMessage): void {
    if (message.event !== undefined) {
      this.waiting.get(message.event)?.resolve(message.data);
      this.waiting.delete(message.event);
    } else if (message.return !== undefined || message.error !== undefined) {
      this.answer?.resolve(message);
      this.answer = undefined;
    }
  }

  private fail(error: Error): void {
    this.answer?.reject(error);
    for (const { reject } of this.waiting.values()) reject(error);
  }
}
