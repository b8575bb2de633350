// The data arena: buffers for data on its way between base, requester and overlay. A task takes all
// it needs at once and holds a range lock before it does, so that no task ever waits for memory
// while another waits for what it holds. Only what is fetched ahead is held by tasks that wait for
// more; it has a part of the arena to itself, so that they always find the rest.
import { BLOCK_BYTES, BLOCKS_MAX } from '../limits';

/** What is fetched ahead is kept to the end of the arena: this part of it. */
const AHEAD_SHARE: u32 = 3;

let base: usize = 0;
let blocks: u32 = 0;
let used: usize = 0;
let usedBlocks: u32 = 0;
/** Where the next search starts: buffers are freed roughly in the order they were taken. */
let hint: u32 = 0;

export function arenaTableBytes(): usize {
  return BLOCKS_MAX;
}

/** `table` holds a byte a block; the arena itself is [from, to). */
export function arenaInit(table: usize, from: usize, to: usize): void {
  assert(to > from);
  used = table;
  base = from;
  blocks = <u32>((to - from) / BLOCK_BYTES);
  if (blocks > BLOCKS_MAX) blocks = BLOCKS_MAX;
  memory.fill(used, 0, blocks);
  usedBlocks = 0;
  hint = 0;
}

export function arenaBytes(): u32 {
  return blocks * BLOCK_BYTES;
}

export function arenaFreeBytes(): u32 {
  return (blocks - usedBlocks) * BLOCK_BYTES;
}

/** Returns the address of `bytes` contiguous bytes, or 0 when there are none now. */
export function arenaTake(bytes: u32): usize {
  assert(bytes > 0);
  const count = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
  if (count > blocks - usedBlocks) return 0;
  let at = search(hint, blocks, count);
  if (at == blocks) at = search(0, min(hint + count, blocks), count);
  if (at >= blocks) return 0;
  memory.fill(used + at, 1, count);
  usedBlocks += count;
  hint = at + count;
  return base + at * BLOCK_BYTES;
}

/** Most that arenaTakeAhead can ever give. */
export function arenaAheadBytes(): u32 {
  return (blocks / AHEAD_SHARE) * BLOCK_BYTES;
}

/** As arenaTake, for what a task holds while it waits for more. */
export function arenaTakeAhead(bytes: u32): usize {
  assert(bytes > 0);
  const count = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
  const at = search(blocks - blocks / AHEAD_SHARE, blocks, count);
  if (at >= blocks) return 0;
  memory.fill(used + at, 1, count);
  usedBlocks += count;
  return base + at * BLOCK_BYTES;
}

export function arenaGive(address: usize, bytes: u32): void {
  assert(bytes > 0 && address >= base);
  assert((address - base) % BLOCK_BYTES == 0);
  const count = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
  const at = <u32>((address - base) / BLOCK_BYTES);
  assert(at + count <= blocks && load<u8>(used + at) == 1);
  memory.fill(used + at, 0, count);
  usedBlocks -= count;
}

function search(from: u32, to: u32, count: u32): u32 {
  let run: u32 = 0;
  for (let i = from; i < to; i++) {
    run = load<u8>(used + i) ? 0 : run + 1;
    if (run == count) return i + 1 - count;
  }
  return blocks;
}
