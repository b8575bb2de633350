/**
 * One case: a disk over an unruly server, read, written and streamed with short timeouts. Whatever
 * the server does, each call gives the right bytes or an error by name, in the end; the overlay is
 * sound; and once the server behaves, the stream completes and the disk shows its base with what
 * the guest wrote.
 */

import type { HttpOptions, HttpSource } from '../../hosts/bases/http/http.ts';
import { openHttp } from '../../hosts/bases/http/http.ts';
import type { Disk, ErrorCode, OnError } from '../../hosts/node/index.ts';
import {
  checkDisk,
  createDisk,
  JobStatus,
  MillraceError,
  openDisk,
} from '../../hosts/node/index.ts';
import { makeContent, Random } from '../fixtures/content.ts';
import { checkImage } from '../simulator/checker.ts';
import { makeImage } from '../simulator/images.ts';
import { planOf } from '../simulator/plan.ts';
import { contentOf } from '../simulator/qcow2.ts';
import { MemoryFile } from '../support/memory-file.ts';
import type { UnrulyServer } from './servers.ts';
import { serveUnruly } from './servers.ts';

const KIB = 1024;
const MEMORY_BYTES = 8 << 20;
const BASE_BYTES_MAX = 5 << 20;
/** Small clusters make the engine busy, not the server; large ones want more memory. */
const CLUSTER_BITS_MIN = 12;
const CLUSTER_BITS_MAX = 18;
const ACTIONS_MAX = 8;
const RANGE_BYTES_MAX = 700 * KIB;
const RESUMES_MAX = 2;
/**
 * Decides only that something hangs: all timeouts, waits and repetitions of one call take seconds.
 */
const HANG_MS = 120_000;
/** In the URL's credentials, and never in a message. */
const SECRET = 'hush-hush';
/**
 * What a server can bring about. Nothing that it does makes the metadata of a sound base look
 * corrupt.
 */
const CODES: readonly ErrorCode[] = [
  'EIO',
  'ETIMEDOUT',
  'ECHANGED',
  'EUNSUPPORTED',
  'EACCES',
  'ENOENT',
];

export interface ServerResult {
  /** Codes of the errors that calls ended with. */
  codes: string[];
  /** What the server did. */
  deeds: string[];
  error?: Error;
}

export async function runServerCase(seed: number): Promise<ServerResult> {
  const random = new Random(seed);
  const base = makeBase(random);
  const server = await serveUnruly(base.file, random.next());
  const run = new ServerCase(random, base, server);
  try {
    await run.run();
    return { codes: run.codes, deeds: server.deeds };
  } catch (error) {
    return { codes: run.codes, deeds: server.deeds, error: error as Error };
  } finally {
    await server.stop();
  }
}

interface Base {
  file: Uint8Array;
  format: 'raw' | 'qcow2';
  content: Uint8Array;
}

function makeBase(random: Random): Base {
  const size = random.between(0, 3)
    ? random.between(1, BASE_BYTES_MAX)
    : random.between(1, 128 * KIB);
  if (random.next() & 1) {
    const content = makeContent('random', random.next(), size);
    return { file: content, format: 'raw', content };
  }
  const plan = planOf(random.next()).overlay;
  const clusterBits = Math.min(Math.max(plan.clusterBits, CLUSTER_BITS_MIN), CLUSTER_BITS_MAX);
  const image = makeImage({ ...plan, clusterBits, size: Math.ceil(size / 512) * 512 }, random);
  return { file: image, format: 'qcow2', content: contentOf(image, new Uint8Array(0)) };
}

/** `[start, end)` of the disk. */
interface Range {
  start: number;
  end: number;
}

class ServerCase {
  readonly codes: string[] = [];
  readonly #random: Random;
  readonly #base: Base;
  readonly #server: UnrulyServer;
  readonly #url: string;
  readonly #overlay = new MemoryFile('overlay.qcow2');
  /**
   * What the disk shows; but where a write failed, it is not known whether the old bytes or the new
   * ones are there.
   */
  readonly #truth: Uint8Array;
  readonly #unsure: Range[] = [];
  /** The overlay needs its base no more. */
  #alone = false;

  constructor(random: Random, base: Base, server: UnrulyServer) {
    this.#random = random;
    this.#base = base;
    this.#server = server;
    this.#url =
      random.next() & 1
        ? server.url
        : server.url.replace('//', `//user:${SECRET}@`) + `?token=${SECRET}`;
    this.#truth = new Uint8Array(Math.ceil(base.content.length / 512) * 512);
    this.#truth.set(base.content);
  }

  async run(): Promise<void> {
    let disk: Disk | undefined = await this.#created();
    this.#server.change();
    for (let lives = this.#random.between(1, 2); disk && lives > 0; lives--) {
      for (let actions = this.#random.between(1, ACTIONS_MAX); actions > 0; actions--)
        await this.#act(disk);
      await within('close', disk.close());
      await this.#isSound();
      disk = lives > 1 ? await this.#vetted('open', () => this.#open(this.#hasty())) : undefined;
    }
    await disk?.close();
    this.#server.behave();
    await this.#completes();
  }

  /** Until it succeeds; the server behaves in the end. */
  async #created(): Promise<Disk> {
    for (let tries = 2; ; tries--) {
      if (tries === 0) this.#server.behave();
      const disk = await this.#vetted('create', () => this.#create(tries ? this.#hasty() : {}));
      if (disk) return disk;
      if (this.#overlay.size)
        throw new Error('a disk that could not be created left something behind');
      if (tries === 0) throw new Error('a disk cannot be created though the server behaves');
    }
  }

  async #create(options: HttpOptions): Promise<Disk> {
    const base = await openHttp(this.#url, options);
    const clusterSize = 2 ** this.#random.between(CLUSTER_BITS_MIN, CLUSTER_BITS_MAX);
    return createDisk({
      overlay: this.#overlay,
      base,
      baseFormat: this.#base.format,
      recordBase: 'base',
      clusterSize,
      memory: MEMORY_BYTES,
    });
  }

  async #open(options: HttpOptions): Promise<Disk> {
    if (this.#alone) return openDisk({ overlay: this.#overlay, memory: MEMORY_BYTES });
    const base: HttpSource = await openHttp(this.#url, options);
    return openDisk({
      overlay: this.#overlay,
      base,
      baseFormat: this.#base.format,
      memory: MEMORY_BYTES,
    });
  }

  #hasty(): HttpOptions {
    return {
      timeout: this.#random.between(40, 400),
      retries: this.#random.between(0, 2),
      depth: this.#random.between(2, 8),
    };
  }

  async #act(disk: Disk): Promise<void> {
    const kinds = [
      () => this.#read(disk),
      () => this.#read(disk),
      () => Promise.all(Array.from({ length: 5 }, () => this.#read(disk))),
      () => this.#write(disk),
      () => this.#vetted('flush', () => disk.flush()),
      () => this.#stream(disk, 'report'),
      () => this.#stream(disk, 'ignore'),
      () => this.#streamPausing(disk),
      () => this.#streamAborted(disk),
      () =>
        Promise.all([
          this.#stream(disk, 'report'),
          this.#read(disk),
          this.#write(disk),
          this.#read(disk),
        ]),
    ];
    await kinds[this.#random.between(0, kinds.length - 1)]();
  }

  #range(disk: Disk): Range {
    const start = this.#random.between(0, disk.size - 1);
    return {
      start,
      end: start + this.#random.between(1, Math.min(disk.size - start, RANGE_BYTES_MAX)),
    };
  }

  async #read(disk: Disk): Promise<void> {
    const { start, end } = this.#range(disk);
    // A write that begins meanwhile may be seen or not; both are right.
    const before = this.#truth.slice(start, end);
    const bytes = await this.#vetted('read', () => disk.read(start, end - start));
    if (!bytes) return;
    for (let at = start; at < end; at++) {
      const found = bytes[at - start];
      if (found === this.#truth[at] || found === before[at - start] || this.#isUnsure(at)) continue;
      throw new Error(
        `a read of ${end - start} bytes at ${start} gave ${found} at ${at}, which is ${this.#truth[at]}`,
      );
    }
  }

  #isUnsure(at: number): boolean {
    return this.#unsure.some(({ start, end }) => at >= start && at < end);
  }

  async #write(disk: Disk): Promise<void> {
    const range = this.#range(disk);
    const data = makeContent('random', this.#random.next(), range.end - range.start);
    this.#truth.set(data, range.start);
    this.#unsure.push(range);
    const done = await this.#vetted('write', () => disk.write(range.start, data).then(() => true));
    if (done) this.#unsure.splice(this.#unsure.indexOf(range), 1);
  }

  async #stream(disk: Disk, onError: OnError): Promise<void> {
    const info = await this.#vetted('stream', () => disk.stream({ onError }));
    if (info?.status === JobStatus.COMPLETED) this.#alone = true;
    await this.#accounts(disk);
  }

  /** A job that pauses at each error, is resumed a few times, and then aborted. */
  async #streamPausing(disk: Disk): Promise<void> {
    let resumes = 0;
    const onPaused = (): void =>
      void (resumes++ < RESUMES_MAX ? disk.resume() : disk.abort()).catch(() => {});
    disk.addEventListener('paused', onPaused);
    await this.#nonblocking(disk, 'stop');
    disk.removeEventListener('paused', onPaused);
  }

  async #streamAborted(disk: Disk): Promise<void> {
    const ended = this.#nonblocking(disk, 'report');
    await this.#read(disk);
    await within(
      'abort',
      disk.abort().catch((error) => expectCode(error, 'ENOENT')),
    );
    await ended;
  }

  /** Runs a job to its end by the events, as one who does not wait for the call. */
  async #nonblocking(disk: Disk, onError: OnError): Promise<void> {
    const ended = new Promise<void>((resolve) => {
      for (const type of ['completed', 'failed'] as const)
        disk.addEventListener(type, () => resolve(), { once: true });
    });
    await disk.stream({ onError, nonblock: true });
    await within('stream', ended);
    const { status, reason, error } = await disk.info();
    if (status === JobStatus.COMPLETED) this.#alone = true;
    else if (reason === 'error')
      this.#vet('stream', new MillraceError(error!.code, error!.message));
    await this.#accounts(disk);
  }

  /** What a job says that is missing is what is missing. */
  async #accounts(disk: Disk): Promise<void> {
    const { remaining, status } = await disk.info();
    if (status === JobStatus.COMPLETED && remaining)
      throw new Error(`a completed job leaves ${remaining} bytes`);
    const missing = await within('remaining', disk.remaining());
    // Reads and writes populate too, between the job's end and the question.
    if (missing > remaining)
      throw new Error(`a job says that ${remaining} bytes are missing, and there are ${missing}`);
  }

  async #isSound(): Promise<void> {
    const { corruptions, leaks } = (await checkDisk({
      overlay: this.#overlay,
      memory: MEMORY_BYTES,
    }))!;
    const found = checkImage(this.#overlay.bytes.slice());
    if (corruptions || leaks || found.corruptions.length) {
      throw new Error(
        `the overlay has ${corruptions} corruptions and ${leaks} leaks; ${found.corruptions.join('; ')}`,
      );
    }
  }

  async #completes(): Promise<void> {
    const disk = await within('open', this.#open({}));
    for (const { start, end } of this.#unsure.splice(0))
      await within('write', disk.write(start, this.#truth.slice(start, end)));
    const { status, remaining } = await within('stream', disk.stream());
    if (status !== JobStatus.COMPLETED || remaining)
      throw new Error(
        `the stream ends with status ${status} and ${remaining} bytes left though the server behaves`,
      );
    await within('close', disk.close());
    await this.#isSound();
    const alone = await openDisk({ overlay: this.#overlay, readOnly: true, memory: MEMORY_BYTES });
    const bytes = await within('read', alone.read(0, alone.size));
    if (Buffer.compare(bytes, this.#truth) !== 0)
      throw new Error('the streamed disk differs from its base and what was written');
    await alone.close();
  }

  /** The value of a call, or undefined if it failed as it may. */
  async #vetted<T>(what: string, call: () => Promise<T>): Promise<T | undefined> {
    try {
      return await within(what, call());
    } catch (error) {
      this.#vet(what, error);
      return undefined;
    }
  }

  #vet(what: string, error: unknown): void {
    if (!(error instanceof MillraceError)) throw error;
    if (!CODES.includes(error.code))
      throw new Error(`${what} ended with ${error.code}: ${error.message}`, { cause: error });
    if (JSON.stringify([error.message, String(error.cause)]).includes(SECRET))
      throw new Error(`${what} tells a secret: ${error.message}`);
    if (!error.message.includes('127.0.0.1') && !error.message.includes('base'))
      throw new Error(`${what} does not name the base: ${error.message}`);
    this.codes.push(error.code);
  }
}

function expectCode(error: unknown, code: ErrorCode): void {
  if (!(error instanceof MillraceError) || error.code !== code) throw error;
}

/** @throws when it takes so long that it hangs. */
async function within<T>(what: string, work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const hangs = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`${what} hangs: nothing for ${HANG_MS / 1000} s`)),
      HANG_MS,
    );
  });
  try {
    return await Promise.race([work, hangs]);
  } finally {
    clearTimeout(timer);
  }
}

/** Runs seeds from `first` on, several at a time; tells of each one that ends. */
export async function runServerCases(
  first: number,
  count: number,
  lanes: number,
  ended: (seed: number, result: ServerResult) => void,
): Promise<void> {
  let next = first;
  const lane = async (): Promise<void> => {
    while (next < first + count) {
      const seed = next++;
      ended(seed, await runServerCase(seed));
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}
