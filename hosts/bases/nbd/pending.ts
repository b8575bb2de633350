/** A request under way, and what of its answer has come. */
import type { Failure } from '../retry.ts';
import { broken } from './handshake.ts';
import type { Descriptor } from './messages.ts';
import { Command } from './protocol.ts';

/** Runs of content in the reply to one read: as many as there are sectors in the largest. */
const RUNS_MAX = 4096;

/** A request that has not been answered whole. */
export interface Pending {
  readonly type: number;
  readonly offset: number;
  readonly length: number;
  /** Where a read's content goes. */
  readonly into: Uint8Array;
  /** What of it has come: runs that do not touch, in order. */
  readonly runs: { start: number; end: number }[];
  descriptors: Descriptor[];
  failure: Failure | undefined;
  settle(failure?: Failure): void;
}

/**
 * The part of a read's buffer that a chunk fills, which must be inside it, and where no other chunk
 * was.
 */
export function claim(pending: Pending, offset: number, length: number): Uint8Array {
  const { runs, into } = pending;
  const start = offset - pending.offset;
  const end = start + length;
  if (length === 0 || start < 0 || end > pending.length)
    throw broken(`it sends ${length} bytes at ${offset}, which were not asked for`);
  let at = runs.length;
  while (at > 0 && runs[at - 1].start >= start) at--;
  const [below, above] = [runs[at - 1], runs[at]];
  if ((below !== undefined && below.end > start) || (above !== undefined && above.start < end))
    throw broken(`it sends bytes at ${offset} twice`);
  const [joinsBelow, joinsAbove] = [below?.end === start, above?.start === end];
  if (joinsBelow && joinsAbove) {
    below.end = above.end;
    runs.splice(at, 1);
  } else if (joinsBelow) below.end = end;
  else if (joinsAbove) above.start = start;
  else if (runs.length === RUNS_MAX) throw broken(`a reply is in more than ${RUNS_MAX} pieces`);
  else runs.splice(at, 0, { start, end });
  return into.subarray(start, end);
}

/** Whether all that was asked for has come. */
export function isWhole({ type, runs, length, descriptors }: Pending): boolean {
  if (type !== Command.read) return descriptors.length > 0;
  return runs.length === 1 && runs[0].start === 0 && runs[0].end === length;
}
