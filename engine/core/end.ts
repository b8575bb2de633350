// The end of a task.

import { TASKS_MAX } from '../limits';
import { unlock } from './lock';
import { endMemoryTurn, releaseMemory } from './memory';
import { KIND_GIVEN, KIND_NONE, KIND_REQUEST_LAST, Task, taskAt } from './task';

/** Ended requests that keep their memory until the next step. */
let given: u32 = 0;

/**
 * Gives back all that a task holds; the memory of a request only with the next step, for the host
 * has yet to copy from it.
 */
export function taskEnd(t: Task): void {
  assert(t.pending == 0);
  unlock(t);
  endMemoryTurn(t);
  t.waits = 0;
  if (t.buffer && t.kind <= KIND_REQUEST_LAST) {
    t.kind = KIND_GIVEN;
    given++;
    return;
  }
  releaseMemory(t);
  t.kind = KIND_NONE;
}

/** Called at the start of a step: the host has copied what ended requests gave it. */
export function givenTaken(): void {
  if (!given) return;
  given = 0;
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    if (t.kind != KIND_GIVEN) continue;
    releaseMemory(t);
    t.kind = KIND_NONE;
  }
}

export function anyGiven(): bool {
  return given != 0;
}
