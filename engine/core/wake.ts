// Waking: tasks that wait are made ready when what they wait for may have come. Each looks for
// itself whether it has.

import { TASKS_MAX } from '../limits';
import { ABORTED } from '../protocol';
import {
  failAs,
  failOfHost,
  KIND_NONE,
  ON_PAGE,
  ON_REFCOUNTS,
  ON_WRITEBACK,
  ready,
  Task,
  taskAt,
} from './task';

/** Where the next search for whose turn it is begins. */
let firstTurn: u32 = 0;

/** Makes every task that waits on one of these ready again, in the order of the table. */
export function wake(on: u32): void {
  assert(on != 0);
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind != KIND_NONE && t.waits & on) ready(t);
  }
}

/**
 * Makes the job and its copies ready, whatever they wait for: each looks for itself whether it
 * still has to.
 */
export function wakeJobs(): void {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind != KIND_NONE && t.waits && t.isJobs) ready(t);
  }
}

/**
 * Makes the tasks that wait for a page ready, failing them if it could not be read. Where it was
 * cancelled with the job, others who wait for it try again.
 */
export function wakePage(page: usize, error: i32, image: u32, offset: u64, detail: u32): void {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind == KIND_NONE || !(t.waits & ON_PAGE) || (t.page != page && t.page != 0)) continue;
    if (error && t.page == page && (error != ABORTED || t.isJobs))
      failOfHost(t, error, image, offset, detail);
    ready(t);
  }
}

/**
 * Another task may load pages now: whoever waits for that looks, each time from another one on, so
 * that everyone's turn comes.
 */
export function wakeTurns(): void {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt((firstTurn + i) % TASKS_MAX);
    if (t.kind != KIND_NONE && t.waits == ON_PAGE && t.page == 0) ready(t);
  }
  firstTurn++;
}

/**
 * A write-back has failed: those who wait for room in the cache fail with it, the others look for
 * themselves.
 */
export function wakeFailed(cause: Task): void {
  assert(cause.error != 0);
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind == KIND_NONE || !(t.waits & ON_WRITEBACK)) continue;
    // Those that flush look for themselves; nobody else can go on without what it would have made
    // room for.
    if (!t.flushStep) failAs(t, cause);
    ready(t);
  }
}

/** The refcount tables could not grow: those who wait for it fail. */
export function wakeRefcounts(cause: Task): void {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind == KIND_NONE || !(t.waits & ON_REFCOUNTS)) continue;
    if (cause.error) failAs(t, cause);
    ready(t);
  }
}
