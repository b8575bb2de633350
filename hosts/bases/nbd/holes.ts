/**
 * Where an export has data, by NBD_CMD_BLOCK_STATUS: what it tells of is kept for the questions
 * that follow. A server that cannot tell, or not now, costs no more than reading its zeros.
 */
import type { Connection } from './connection.ts';
import type { Descriptor } from './messages.ts';
import { AllocationFlag } from './protocol.ts';

/** What one request asks about, at most: less than the 32 bits of a compact one. */
const RANGE_BYTES_MAX: number = 2 ** 31;
/**
 * After so many questions that told of less than this each, on average, no more are asked: reading
 * the zeros takes no longer.
 */
const QUESTIONS_MIN = 32;
const TOLD_BYTES_MIN: number = 2 * 1024 * 1024;

interface Run {
  start: number;
  end: number;
  isZero: boolean;
}

export class Holes {
  readonly #size: number;
  readonly #take: (signal: AbortSignal) => Promise<Connection>;
  readonly #closing: AbortSignal;
  /** What was told last: runs that touch, from one offset on. */
  #runs: Run[] = [];
  #questions = 0;
  #toldBytes = 0;

  constructor(
    size: number,
    take: (signal: AbortSignal) => Promise<Connection>,
    closing: AbortSignal,
  ) {
    this.#size = size;
    this.#take = take;
    this.#closing = closing;
  }

  /** As `BlockSource.nextData`. */
  async nextData(offset: number): Promise<{ start: number; end: number } | undefined> {
    let at = offset;
    while (at < this.#size) {
      const run = this.#runAt(at) ?? (await this.#ask(at));
      if (!run.isZero) return { start: at, end: run.end };
      at = run.end;
    }
    return undefined;
  }

  #runAt(offset: number): Run | undefined {
    // They are asked for in order: those behind are asked for no more.
    while (this.#runs.length > 0 && this.#runs[0].end <= offset) this.#runs.shift();
    const [run] = this.#runs;
    return run !== undefined && run.start <= offset ? run : undefined;
  }

  async #ask(offset: number): Promise<Run> {
    const isData = { start: offset, end: this.#size, isZero: false };
    const isWorthIt = this.#toldBytes >= this.#questions * TOLD_BYTES_MIN;
    if (this.#questions >= QUESTIONS_MIN && !isWorthIt) return isData;
    this.#questions++;
    try {
      const connection = await this.#take(this.#closing);
      const { minimum } = connection.told.blocks;
      const start = offset - (offset % minimum);
      const length = Math.min(this.#size - start, RANGE_BYTES_MAX);
      const told = await connection.blockStatus(start, length, this.#closing);
      this.#runs = runsOf(start, this.#size, told);
      this.#toldBytes += (this.#runs.at(-1)?.end ?? start) - start;
    } catch {
      this.#runs = [];
    }
    return this.#runAt(offset) ?? isData;
  }
}

/** A hole that need not read as zeros is data. */
function runsOf(start: number, size: number, told: readonly Descriptor[]): Run[] {
  const runs: Run[] = [];
  let at = start;
  for (const { length, status } of told) {
    const end = Math.min(at + length, size);
    const isZero = (status & AllocationFlag.zero) !== 0;
    const last = runs.at(-1);
    if (end === at) break;
    if (last?.isZero === isZero) last.end = end;
    else runs.push({ start: at, end, isZero });
    at = end;
  }
  return runs;
}
