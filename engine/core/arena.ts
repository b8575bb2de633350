// The data arena: buffers for data on its way between base, requester and overlay. A task takes all
// it needs at once and holds a range lock before it does, so that no task ever waits for memory
// while another waits for what it holds. Only what is fetched ahead is held by tasks that wait for
// more; it has a part of the arena to itself, so that they always find the rest.
import { BLOCK_BYTES, BLOCKS_MAX } from '../limits';

/** What is fetched ahead is kept to the end of the arena: this part of it. */
const AHEAD_SHARE: u32 = 3;

/** The arena, and a table with a byte for each of its blocks: whether it is taken. */
@unmanaged
class Arena {
  base: usize;
  blocks: u32;
  /** The table. */
  used: usize;
  usedBlocks: u32;
  /** Where the next search starts: buffers are freed roughly in the order they were taken. */
  hint: u32;
}

function arena(): Arena {
  return changetype<Arena>(memory.data(offsetof<Arena>(), 8));
}

export function arenaTableBytes(): usize {
  return BLOCKS_MAX;
}

/** `table` holds a byte a block; the arena itself is [from, to). */
export function arenaInit(table: usize, from: usize, to: usize): void {
  const a = arena();
  assert(to > from);
  a.used = table;
  a.base = from;
  a.blocks = <u32>((to - from) / BLOCK_BYTES);
  if (a.blocks > BLOCKS_MAX) a.blocks = BLOCKS_MAX;
  memory.fill(a.used, 0, a.blocks);
  a.usedBlocks = 0;
  a.hint = 0;
}

export function arenaBytes(): u32 {
  return arena().blocks * BLOCK_BYTES;
}

export function arenaFreeBytes(): u32 {
  const a = arena();
  return (a.blocks - a.usedBlocks) * BLOCK_BYTES;
}

/** Returns the address of `bytes` contiguous bytes, or 0 when there are none now. */
export function arenaTake(bytes: u32): usize {
  const a = arena();
  assert(bytes > 0);
  const count = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
  if (count > a.blocks - a.usedBlocks) return 0;
  let at = search(a.hint, a.blocks, count);
  if (at == a.blocks) at = search(0, min(a.hint + count, a.blocks), count);
  if (at >= a.blocks) return 0;
  memory.fill(a.used + at, 1, count);
  a.usedBlocks += count;
  a.hint = at + count;
  return a.base + at * BLOCK_BYTES;
}

/** Most that arenaTakeAhead can ever give. */
export function arenaAheadBytes(): u32 {
  return (arena().blocks / AHEAD_SHARE) * BLOCK_BYTES;
}

/** As arenaTake, for what a task holds while it waits for more. */
export function arenaTakeAhead(bytes: u32): usize {
  const a = arena();
  assert(bytes > 0);
  const count = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
  const at = search(a.blocks - a.blocks / AHEAD_SHARE, a.blocks, count);
  if (at >= a.blocks) return 0;
  memory.fill(a.used + at, 1, count);
  a.usedBlocks += count;
  return a.base + at * BLOCK_BYTES;
}

export function arenaGive(address: usize, bytes: u32): void {
  const a = arena();
  assert(bytes > 0 && address >= a.base);
  assert((address - a.base) % BLOCK_BYTES == 0);
  const count = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
  const at = <u32>((address - a.base) / BLOCK_BYTES);
  assert(at + count <= a.blocks && load<u8>(a.used + at) == 1);
  memory.fill(a.used + at, 0, count);
  a.usedBlocks -= count;
}

function search(from: u32, to: u32, count: u32): u32 {
  const a = arena();
  let run: u32 = 0;
  for (let i = from; i < to; i++) {
    run = load<u8>(a.used + i) ? 0 : run + 1;
    if (run == count) return i + 1 - count;
  }
  return a.blocks;
}
