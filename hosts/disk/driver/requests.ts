/**
 * The requests of one engine, from their call to their end: those in flight, and those that wait
 * for a place in the engine's table.
 */
import {
  KIND_CHECK,
  KIND_CLOSE,
  KIND_CREATE,
  KIND_DISCARD,
  KIND_FLUSH,
  KIND_MAP,
  KIND_OPEN,
  KIND_PACK,
  KIND_POPULATE,
  KIND_READ,
  KIND_REFER,
  KIND_REMAINING,
  KIND_RESIZE,
  KIND_SNAPSHOTS,
  KIND_STREAM,
  KIND_WRITE,
  KIND_ZERO,
  REPAIR_CRASH,
} from '../../../engine/protocol.ts';
import type { Exports } from './instance.ts';

/** What is asked of the engine, and who waits for it. */
export interface Request {
  kind: number;
  offset: number;
  length: number;
  argument: number;
  /** A write's data. */
  data?: Uint8Array;
  /** Where a read's data goes. */
  into?: Uint8Array;
  resolve(value: number): void;
  reject(error: unknown): void;
}

export class Requests {
  /** By the tags that the engine knows them by. */
  readonly #inFlight = new Map<number, Request>();
  readonly #waiting: Request[] = [];
  #nextTag = 1;

  /** Whether one waits for a place in the engine's table. */
  get areWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  add(request: Request): void {
    this.#waiting.push(request);
  }

  /** Hands over as many as the engine takes. */
  start(exports: Exports): void {
    while (this.#waiting.length) {
      const next = this.#waiting[0];
      const tag = this.#nextTag;
      if (!exports.request(next.kind, tag, next.offset, next.length, next.argument)) return;
      this.#nextTag = (tag + 1) >>> 0 || 1;
      this.#inFlight.set(tag, next);
      this.#waiting.shift();
    }
  }

  /** Fills `into` with a write's data from `offset` on. */
  take(tag: number, offset: number, into: Uint8Array): void {
    const data = this.#inFlight.get(tag)?.data;
    if (data) into.set(data.subarray(offset, offset + into.length));
  }

  /** Hands a part of a read's data to who reads, at `offset` of it. */
  give(tag: number, offset: number, bytes: Uint8Array): void {
    this.#inFlight.get(tag)?.into?.set(bytes, offset);
  }

  /** Takes one out that has ended; undefined where nobody waits for it any more. */
  remove(tag: number): Request | undefined {
    const request = this.#inFlight.get(tag);
    this.#inFlight.delete(tag);
    return request;
  }

  rejectAll(error: unknown): void {
    for (const request of this.#inFlight.values()) request.reject(error);
    for (const request of this.#waiting) request.reject(error);
    this.#inFlight.clear();
    this.#waiting.length = 0;
  }
}

const ACTIONS: Record<number, string> = {
  [KIND_OPEN]: 'open the image',
  [KIND_CREATE]: 'create the overlay',
  [KIND_READ]: 'read',
  [KIND_POPULATE]: 'fetch ahead',
  [KIND_WRITE]: 'write',
  [KIND_PACK]: 'write compressed',
  [KIND_ZERO]: 'write zeroes',
  [KIND_DISCARD]: 'discard',
  [KIND_FLUSH]: 'flush',
  [KIND_RESIZE]: 'resize',
  [KIND_STREAM]: 'stream',
  [KIND_REMAINING]: 'count what remains',
  [KIND_MAP]: 'map',
  [KIND_CHECK]: 'check',
  [KIND_CLOSE]: 'close the disk',
  [KIND_REFER]: 'record another base',
  [KIND_SNAPSHOTS]: 'tell the snapshots',
};

/** What a request does, as an error says that it cannot. */
export function actionOf(request: Request): string {
  if (request.kind === KIND_CHECK && request.argument === REPAIR_CRASH) return ACTIONS[KIND_OPEN];
  const action = ACTIONS[request.kind] ?? 'do that';
  const ranged = [KIND_READ, KIND_WRITE, KIND_PACK, KIND_POPULATE].includes(request.kind);
  return ranged ? `${action} ${request.length} bytes at ${request.offset}` : action;
}
