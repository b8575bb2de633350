// The memory of tasks: their buffers and scratches, in turns that leave guests their share.

import { GUEST_MEMORY_SHARE, TASKS_MAX } from '../limits';
import { arenaBytes, arenaFreeBytes, arenaGive, arenaTake, arenaTakeAhead } from './arena';
import { KIND_NONE, ON_MEMORY, Task, taskAt } from './task';
import { wake } from './wake';

/** Buffers that tasks hold. */
let buffers: u32 = 0;

/** Takes a buffer and, unless the task has it already, a scratch, or says that it must wait. */
export function takeMemory(t: Task, bufferBytes: u32, scratchBytes: u32): bool {
  assert(bufferBytes > 0);
  if (t.buffer) return true;
  if (t.scratch) scratchBytes = 0;
  else if (!isNext(t)) return lacksMemory(t);
  if (!mayTake(t, bufferBytes + scratchBytes)) return lacksMemory(t);
  const buffer = arenaTake(bufferBytes);
  if (!buffer) return lacksMemory(t);
  if (scratchBytes) {
    const scratch = arenaTake(scratchBytes);
    if (!scratch) {
      arenaGive(buffer, bufferBytes);
      return lacksMemory(t);
    }
    t.scratch = scratch;
    t.scratchBytes = scratchBytes;
  }
  t.buffer = buffer;
  t.bufferBytes = bufferBytes;
  buffers++;
  endMemoryTurn(t);
  return true;
}

/** Takes a scratch for what is fetched before the task has a buffer, or says that it must wait. */
export function takeScratchAhead(t: Task, bytes: u32): bool {
  assert(bytes > 0 && !t.buffer);
  if (t.scratch) return true;
  const scratch = isNext(t) && mayTake(t, bytes) ? arenaTakeAhead(bytes) : 0;
  if (!scratch) return lacksMemory(t);
  t.scratch = scratch;
  t.scratchBytes = bytes;
  endMemoryTurn(t);
  return true;
}

/**
 * Background work begins to take memory in the order of its locks, however much each of it needs:
 * what is fetched side by side lies side by side then, and goes over a line in few requests.
 */
function isNext(t: Task): bool {
  if (!t.background) return true;
  t.memoryTurn = t.lockTurn;
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const o = taskAt(i);
    if (o.kind != KIND_NONE && o.memoryTurn && <i32>(o.memoryTurn - t.memoryTurn) < 0) return false;
  }
  return true;
}

export function endMemoryTurn(t: Task): void {
  if (!t.memoryTurn) return;
  t.memoryTurn = 0;
  wake(ON_MEMORY);
}

/**
 * Background work takes nothing while a guest request waits, and leaves guests their share; but
 * some of it always goes on, and what has a scratch already must, for a guest request may need that
 * memory too.
 */
function mayTake(t: Task, bytes: u32): bool {
  if (!t.background) return true;
  if (buffers == 0) return t.scratch != 0 || !guestWaitsForMemory();
  return !guestWaitsForMemory() && arenaFreeBytes() >= bytes + arenaBytes() / GUEST_MEMORY_SHARE;
}

function lacksMemory(t: Task): bool {
  t.waits = ON_MEMORY;
  return false;
}

export function releaseMemory(t: Task): void {
  if (!t.buffer && !t.scratch) return;
  if (t.buffer) {
    arenaGive(t.buffer, t.bufferBytes);
    buffers--;
  }
  if (t.scratch) arenaGive(t.scratch, t.scratchBytes);
  t.buffer = 0;
  t.scratch = 0;
  t.bufferBytes = 0;
  t.scratchBytes = 0;
  t.streamed = false;
  wake(ON_MEMORY);
}

export function guestWaitsForMemory(): bool {
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const t = taskAt(i);
    // The job's own task waits until there is room for another copy; it takes none itself.
    if (t.kind != KIND_NONE && !t.isJobs && !t.background && t.waits & ON_MEMORY) return true;
  }
  return false;
}
