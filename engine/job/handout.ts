// Handing out copies: which clusters the next one is about, and whether there is room for it now,
// in memory and by the job's speed.

import { arenaBytes, arenaFreeBytes } from '../core/arena';
import { now } from '../core/clock';
import { clusterBytes, imageCount } from '../core/image';
import { Job, setAlarm } from '../core/job';
import { AGAIN, DONE, fetchesAhead, ON_JOB, ON_MEMORY, Task, WAIT, wait } from '../core/task';
import { chunkBytes } from '../data/chunk';
import { scratchFor } from '../data/gather';
import { KEEP_AMONG_ALL, KEEP_NOTHING } from '../data/keep';
import { lookupChain } from '../formats/chain';
import { l2Span, overlay } from '../formats/qcow2/image';
import { BLOCK_BYTES, CHUNK_CLUSTERS_MAX, GUEST_MEMORY_SHARE, SCAN_ENTRIES_MAX } from '../limits';
import { COMPRESSED_DATA, DATA } from '../protocol';
import { beginCopy } from './copy';
import { dropsAll, missingAt } from './missing';
import { hasRange } from './order';
import { copiesAllowed } from './pace';

/** How far ahead of the copies the tables of the base are asked for. */
const TABLES_AHEAD_BYTES: u64 = 64 << 20;
/** A limited job copies pieces of a fraction of a second. */
const PIECES_PER_SECOND: u64 = 8;

/** Hands out copies until nothing more can be done now. */
export function copyOn(t: Task, j: Job): i32 {
  const next = copyRanges(t, j);
  return next == DONE ? copyFromCursor(t, j) : next;
}

/** Those of its order first, as far as anything of them is missing. */
function copyRanges(t: Task, j: Job): i32 {
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (j.aborted || j.ending) return DONE;
    if (!hasRange(j)) {
      if (!j.ordered) return DONE;
      return wait(t, ON_JOB);
    }
    if (j.paused) return wait(t, ON_JOB);
    const absent = missingAt(t, j, j.rangeAt, j.rangeTo - j.rangeAt);
    if (absent == 0) return WAIT;
    if (absent < 0) {
      j.rangeAt += -absent;
      continue;
    }
    const next = handOut(t, j, j.rangeAt, j.rangeTo, absent, 0);
    if (next != DONE) return next;
    j.rangeAt = j.handedTo;
  }
  return AGAIN;
}

function copyFromCursor(t: Task, j: Job): i32 {
  for (let i: u32 = 0; i < SCAN_ENTRIES_MAX; i++) {
    if (j.aborted || j.ending) return DONE;
    if (j.paused) return wait(t, ON_JOB);
    if (j.cursor >= j.to) return DONE;
    const absent = missingAt(t, j, j.cursor, j.to - j.cursor);
    if (absent == 0) return WAIT;
    if (absent < 0) {
      j.cursor += -absent;
      continue;
    }
    const zeroes = zeroesFrom(t, j, absent);
    if (zeroes == UNKNOWN) return WAIT;
    if (zeroes && skipsHole(j, zeroes, absent)) continue;
    const next = handOut(t, j, j.cursor, j.to, absent, zeroes);
    if (next != DONE) return next;
    j.cursor = j.handedTo;
    // The tables that the next copies need come while these are under way; nobody waits for them
    // here.
    if (j.cursor + TABLES_AHEAD_BYTES < overlay().size)
      lookupChain(null, 1, imageCount(), j.cursor + TABLES_AHEAD_BYTES, 1);
  }
  return AGAIN;
}

const UNKNOWN: u64 = u64.MAX_VALUE;

/**
 * How many whole clusters' bytes from the cursor on, of the `absent` ones, are zeros in the chain,
 * as its tables tell. They are linked without reading anything. 0 if data stands there; UNKNOWN if
 * the task waits or has failed.
 */
function zeroesFrom(t: Task, j: Job, absent: u64): u64 {
  assert(absent > 0);
  if (j.full || overlay().version < 3) return 0;
  // The front of this cluster may show what the new base has: it is stored with what is read of
  // that.
  if (j.cursor & (clusterBytes(overlay()) - 1)) return 0;
  const from = max(j.cursor, j.holeAt);
  let at = from;
  const end = j.cursor + absent;
  while (at < end) {
    const extent = lookupChain(t, 1, imageCount(), at, end - at);
    if (extent === null) {
      // What has been found so far is kept, so that a hole of many tables is found in many runs.
      j.holeAt = at;
      return UNKNOWN;
    }
    if (extent.state == DATA || extent.state == COMPRESSED_DATA) break;
    at += extent.length;
    if (at - from >= l2Span(overlay())) break;
  }
  j.holeAt = 0;
  const bytes = at - j.cursor;
  return at >= overlay().size ? bytes : bytes & ~(clusterBytes(overlay()) - 1);
}

/**
 * Leaves out the span of a whole L2 table that does not exist and would map nothing but zeros, if
 * the base is going to go.
 */
function skipsHole(j: Job, zeroes: u64, absent: u64): bool {
  assert(zeroes <= absent);
  const span = l2Span(overlay());
  const spanBytes = min(span, j.to - j.cursor);
  if (!dropsAll(j) || j.cursor & (span - 1) || absent < spanBytes || zeroes < spanBytes)
    return false;
  j.cursor += spanBytes;
  // After an error the job may come past here again.
  if (j.cursor <= j.holesTo) return true;
  j.holesTo = j.cursor;
  j.holes += spanBytes;
  j.remaining -= min(spanBytes, j.remaining);
  return true;
}

/**
 * Starts one copy of what is `absent` at `at`, up to `limit` at most, if there is room for it now;
 * the job's `handedTo` tells how far it reaches.
 */
function handOut(t: Task, j: Job, at: u64, limit: u64, absent: u64, zeroes: u64): i32 {
  assert(absent > 0 && at < limit);
  const cluster = clusterBytes(overlay());
  const start = at & ~(cluster - 1);
  // Only runs worth it go without reading; a few zero clusters between data are found in the data.
  const linkOnly = zeroes >= min(absent, chunkBytes()) && zeroes > 0;
  let end = linkOnly
    ? min(at + zeroes, start + cluster * CHUNK_CLUSTERS_MAX)
    : start - (start % chunkBytes()) + chunkBytes();
  end = min(end, limit);
  if (j.speed) {
    end = min(
      end,
      min(at + absent, start + max(cluster, (j.speed / PIECES_PER_SECOND) & ~(cluster - 1))),
    );
    if (!allowed(j, end - at)) return wait(t, ON_JOB);
  }
  // What guests are expected to want soon has the line to itself.
  if (fetchesAhead()) return wait(t, ON_JOB);
  const full = j.copies >= copiesAllowed(j) || (!linkOnly && isMemoryShort());
  if (full && j.copies) return wait(t, ON_JOB | ON_MEMORY);
  const copy = beginCopy(at, end);
  if (copy === null) return wait(t, ON_JOB | ON_MEMORY);
  copy.isJobs = true;
  copy.zeroes = linkOnly;
  copy.keeping = j.keeps ? KEEP_AMONG_ALL : KEEP_NOTHING;
  copy.resumes = j.resumes;
  copy.begunAt = now();
  copy.among = j.copies;
  j.copies++;
  if (j.speed) j.allowance -= <f64>(end - at);
  j.handedTo = end;
  return DONE;
}

/** Whether the speed allows so many bytes now; if not, sets the alarm for when it will. */
function allowed(j: Job, bytes: u64): bool {
  earn(j);
  // A late alarm does not slow the job down, and a long wait does not let it burst.
  j.allowance = min(j.allowance, <f64>(bytes + j.speed / PIECES_PER_SECOND / 2));
  if (j.allowance >= <f64>bytes) return true;
  setAlarm(now() + ((<f64>bytes - j.allowance) * 1000) / <f64>j.speed + 1);
  return false;
}

/**
 * Whether another copy would only wait for memory, holding its lock; where data is compressed, it
 * begins with little.
 */
function isMemoryShort(): bool {
  const least = scratchFor(1) ? BLOCK_BYTES : <u32>chunkBytes();
  return arenaFreeBytes() < arenaBytes() / GUEST_MEMORY_SHARE + least;
}

/** Adds what the speed has allowed since the last look. */
export function earn(j: Job): void {
  j.allowance += ((now() - j.allowanceAt) * <f64>j.speed) / 1000;
  j.allowanceAt = now();
}
