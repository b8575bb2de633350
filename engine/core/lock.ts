// Range locks: overlapping requests are done in the order they came.

import { TASKS_MAX } from '../limits';
import { KIND_NONE, ON_LOCK, SHARED, Task, taskAt, UNLOCKED } from './task';
import { wake } from './wake';

/** The turn of the lock that was asked for last. */
let turn: u32 = 0;

/**
 * Locks [from, to) of the disk for a task, or says that it must wait. Shared locks go together; a
 * task waits behind every earlier one that its lock conflicts with, held or waiting, so that
 * overlapping requests are done in the order they came.
 */
export function lock(t: Task, mode: u32, from: u64, to: u64): bool {
  assert(mode != UNLOCKED && from <= to);
  if (t.lockHeld) return true;
  if (t.lockMode == UNLOCKED) {
    t.lockMode = mode;
    t.lockFrom = from;
    t.lockTo = to;
    t.lockTurn = ++turn;
  }
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const o = taskAt(i);
    if (o === t || o.kind == KIND_NONE || o.lockMode == UNLOCKED) continue;
    if (o.lockFrom >= t.lockTo || t.lockFrom >= o.lockTo) continue;
    if (o.lockMode == SHARED && t.lockMode == SHARED) continue;
    if (o.lockHeld || <i32>(o.lockTurn - t.lockTurn) < 0) {
      t.waits = ON_LOCK;
      if (o.populating) t.waited = true;
      return false;
    }
  }
  t.lockHeld = true;
  return true;
}

export function unlock(t: Task): void {
  if (t.lockMode == UNLOCKED) return;
  t.lockMode = UNLOCKED;
  t.lockHeld = false;
  wake(ON_LOCK);
}
