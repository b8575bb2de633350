/**
 * A disk under its export name. All connections to it share what stands here: writes that were
 * answered with an error because they took too long, and may still arrive.
 */
import type { Disk } from '../../api/disk.ts';
import type { ErrorCode } from '../../api/errors.ts';
import { MillraceError } from '../../api/errors.ts';
import { ExportFlag, type HeaderStyle } from '../../bases/nbd/protocol.ts';
import { PAYLOAD_BYTES_MAX, RETRY_MS_FIRST, RETRY_MS_MAX } from './limits.ts';
import type { Stop, Wait } from './stop.ts';

/** Failures of a base that may pass. A base that changed, or is not there, does not come back. */
const PASSING: ReadonlySet<string> = new Set(['EIO', 'ETIMEDOUT']);

/** A change of the disk that nobody waits for any more, over `[from, to)`. */
interface Late {
  from: number;
  to: number;
  ended: Promise<unknown>;
}

export class Export {
  readonly name: string;
  readonly disk: Disk;
  readonly readOnly: boolean;
  readonly #timeoutMs: number;
  readonly #late = new Set<Late>();

  constructor(
    name: string,
    disk: Disk,
    { readOnly, timeoutMs }: { readOnly: boolean; timeoutMs: number },
  ) {
    this.name = name;
    this.disk = disk;
    this.readOnly = readOnly;
    this.#timeoutMs = timeoutMs;
  }

  /** "Transmission flags", with headers of this style. */
  flags(style: HeaderStyle, hasContexts: boolean): number {
    let flags = ExportFlag.hasFlags | ExportFlag.canMultiConn | ExportFlag.sendCache;
    flags |= ExportFlag.sendFlush | ExportFlag.sendFua;
    if (this.readOnly) flags |= ExportFlag.readOnly;
    else flags |= ExportFlag.sendTrim | ExportFlag.sendWriteZeroes | ExportFlag.sendFastZero;
    if (style !== 'simple') flags |= ExportFlag.sendDf;
    if (style === 'extended' && hasContexts) flags |= ExportFlag.blockStatusPayload;
    return flags;
  }

  /** "Size constraints": the preferred block, a power of two of 512 or more. */
  get preferredBlock(): number {
    return Math.min(Math.max(512, this.disk.clusterSize), PAYLOAD_BYTES_MAX);
  }

  /**
   * Does what changes nothing, until it succeeds: while its base fails in ways that may pass, the
   * client waits, instead of seeing an error. When the time is up, the request has failed, even if
   * the base still does not answer.
   * @throws MillraceError what it failed with last, or `ETIMEDOUT`.
   */
  look<T>(what: () => string, work: () => Promise<T>, stop: Stop): Promise<T> {
    return this.#untilItPasses(what, work(), work, stop).outcome;
  }

  /**
   * The same for what changes `[offset, offset + length)`. Where it is given up, it may still come
   * to its end at any moment: changes of the same bytes that come later wait for that.
   */
  async change(
    what: () => string,
    offset: number,
    length: number,
    work: () => Promise<void>,
    stop: Stop,
  ): Promise<void> {
    const inOrder = this.#late.size === 0 ? work : () => this.#afterLate(offset, length, work);
    const { outcome, all } = this.#untilItPasses(what, inOrder(), inOrder, stop);
    try {
      await outcome;
    } catch (error) {
      this.#keepLate({ from: offset, to: offset + length, ended: all.catch(() => {}) });
      throw error;
    }
  }

  /** Fills `into` with the disk's bytes from `offset` on. */
  async readInto(offset: number, into: Uint8Array): Promise<void> {
    await this.disk.read(offset, into.length, { into });
  }

  #keepLate(late: Late): void {
    this.#late.add(late);
    void late.ended.then(() => this.#late.delete(late));
  }

  async #afterLate(offset: number, length: number, work: () => Promise<void>): Promise<void> {
    const overlapping = [...this.#late].filter(
      (late) => late.from < offset + length && offset < late.to,
    );
    await Promise.all(overlapping.map((late) => late.ended));
    return work();
  }

  /** `all` ends when nothing of it is under way any more; `outcome` may be an error before that. */
  #untilItPasses<T>(
    what: () => string,
    first: Promise<T>,
    again: () => Promise<T>,
    stop: Stop,
  ): { outcome: Promise<T>; all: Promise<T> } {
    let isGivenUp = false;
    let last: MillraceError | undefined;
    const retry = async (failure: unknown): Promise<T> => {
      let error = failure;
      for (let pauseMs = RETRY_MS_FIRST; ; pauseMs = Math.min(2 * pauseMs, RETRY_MS_MAX)) {
        const passes = PASSING.has(codeOf(error) ?? '');
        if (!passes || isGivenUp || performance.now() + pauseMs >= wait.until) throw error;
        last = error as MillraceError;
        await pause(pauseMs, stop);
        if (isGivenUp || stop.isGiven) throw last;
        try {
          return await again();
        } catch (next) {
          error = next;
        }
      }
    };
    const all = first.catch(retry);
    let wait!: Wait;
    const outcome = new Promise<T>((resolve, reject) => {
      wait = stop.wait(this.#timeoutMs, (why) => {
        isGivenUp = true;
        const isLate = why === 'late';
        const closing = 'the server is closing';
        reject(isLate ? this.#tooLong(what(), last) : new MillraceError('ECLOSED', closing));
      });
      all.then(
        (value) => {
          stop.leave(wait);
          resolve(value);
        },
        (error) => {
          stop.leave(wait);
          reject(error);
        },
      );
    });
    return { outcome, all };
  }

  #tooLong(what: string, last: MillraceError | undefined): MillraceError {
    const seconds = this.#timeoutMs / 1000;
    const why = last === undefined ? 'the base does not answer' : last.message;
    return new MillraceError('ETIMEDOUT', `cannot ${what} within ${seconds} s: ${why}`, {
      cause: last,
    });
  }
}

/** A disk may come from another bundle, whose MillraceError is another class. */
export function codeOf(error: unknown): ErrorCode | undefined {
  return error instanceof Error && error.name === 'MillraceError'
    ? (error as MillraceError).code
    : undefined;
}

function pause(ms: number, stop: Stop): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      forget();
      resolve();
    }, ms);
    const forget = stop.listen(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}
