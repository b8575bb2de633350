// The map of a task's clusters (`clusterMap` of core/task.ts): what becomes of each.

/**
 * What a task does with a cluster: the low bits of its map entry; the rest is the host cluster's
 * position.
 */
export const KEEP: u64 = 0;
/** Needs content, and a host cluster unless it is all zeros. */
export const FILL: u64 = 1;
/** Has a host cluster whose content is incomplete: to be written whole and linked anew. */
export const OWNED: u64 = 2;
/** Has a whole cluster: the requester's bytes go straight there. */
export const IN_PLACE: u64 = 3;
/** Has been given a host cluster. */
export const NEW: u64 = 4;
/** Becomes a zero cluster. */
export const ZEROED: u64 = 5;
/** Is there and stays as it is, but its content is wanted in the buffer. */
export const WANTED: u64 = 6;
/** Takes over a compressed stream: the rest of the entry is the stream's number. See keep.ts. */
export const PACKED: u64 = 7;
export const ACTION: u64 = 15;
export const ACTION_BITS: u64 = 4;
