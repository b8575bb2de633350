// Flushes: steps that several tasks take, with fields of their own for it in every task.

import { anyDirty } from '../core/pages';
import { ioBegin } from '../core/ring';
import { fail, failOfHost, ON_IO, ON_SLOT, ON_WRITEBACK, Task } from '../core/task';
import { EIO, OP_FLUSH, OVERLAY, R_FLUSH_LOST } from '../protocol';
import { anyFree, clustersFreed } from './frees';
import { barrierDone, nextWriteback, settled, writebacks, writebackWanted } from './progress';

const FLUSH_START: u32 = 0;
const FLUSH_WRITEBACK: u32 = 1;
const FLUSH_BARRIER: u32 = 2;

/**
 * Brings everything completed so far to stable storage: a step that several tasks take, with fields
 * of their own for it. True when that is done; false: the task waits or has failed.
 */
export function flushed(t: Task): bool {
  const w = writebacks();
  if (t.error) return false;
  if (w.lost) {
    fail(t, EIO, R_FLUSH_LOST, OVERLAY, 0);
    return false;
  }
  if (t.flushStep == FLUSH_START) {
    // Only a write-back whose snapshot is taken from now on is sure to hold all that was changed
    // before.
    t.flushTarget = nextWriteback();
    t.flushBegun = w.begun;
    t.flushStep = FLUSH_WRITEBACK;
  }
  if (t.flushStep == FLUSH_WRITEBACK) {
    // What one that ran already could not write is tried again: the cause may be gone by now.
    if (<i32>(w.failedLast - t.flushBegun) > 0) {
      t.flushStep = FLUSH_START;
      failOfHost(t, w.failError, OVERLAY, 0, w.failDetail);
      return false;
    }
    const covered = <i32>(w.complete - t.flushTarget) >= 0;
    if (!covered && (anyDirty() || w.running)) {
      w.wanted = true;
      t.waits = ON_WRITEBACK;
      return false;
    }
    t.flushCovers = w.complete;
    if (ioBegin(t, OP_FLUSH, OVERLAY, 0, 0, 0) === null) {
      t.waits = ON_SLOT;
      return false;
    }
    t.flushStep = FLUSH_BARRIER;
  }
  if (t.pending) {
    t.waits = ON_IO;
    return false;
  }
  barrierDone(t.flushCovers);
  // Nothing on disk refers to them any more: their space goes back now, not when something is
  // written again.
  if (anyFree(w.durable)) w.wanted = true;
  t.flushStep = FLUSH_START;
  return true;
}

/**
 * Write-backs that settling waits for without fewer freed clusters than before: those freed by one
 * are given back by the next, and counted by the one after. Each gives back only those whose
 * refcounts it has room for.
 */
const SETTLES_MAX: u32 = 8;

/** Writes everything and gives every freed cluster back; false: the task waits or has failed. */
export function settle(t: Task): bool {
  if (!flushed(t)) return false;
  if (settled()) return true;
  const left = clustersFreed();
  if (left >= t.settlesLeft && ++t.settles >= SETTLES_MAX) return true;
  t.settlesLeft = left;
  writebackWanted();
  t.waits = ON_WRITEBACK;
  return false;
}
