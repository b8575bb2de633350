// The limits that more than one part of the engine knows, each with the reason for its size. Those
// of one file stand at its beginning.

/**
 * Unit of the metadata cache: an L2 table of 64 KiB clusters, which maps 512 MiB, comes in one
 * read.
 */
export const PAGE_BYTES: u32 = 65536;
export const PAGE_MASK: u64 = 65535;
/** The least hole among data that a copy leaves out, in these. */
export const HOLE_BLOCKS_MIN: u32 = 16;
/**
 * Unit in which changed metadata is written: what storage writes whole or not at all, and the
 * smallest qcow2 cluster.
 */
export const SECTOR_BYTES: u32 = 512;
export const SECTOR_BITS: u32 = 9;
/**
 * Metadata pages kept: enough for every table that the tasks in flight can touch at once, in at
 * most an eighth of the memory.
 */
export const PAGES_MAX: u32 = 64;
export const PAGES_MIN: u32 = 16;
/**
 * Pages that changes leave to tasks that read: one looks at two tables of the overlay and two of a
 * base at once, which would push each other out of fewer for ever, as no write-back is wanted that
 * would make room.
 */
export const CLEAN_PAGES_MIN: u32 = 4;

/** Where a write-back keeps its snapshot of changed sectors while it writes them. */
export const STAGING_BYTES: u32 = 1 << 20;
/**
 * Runs of neighbouring sectors that one write-back can write; one that has more leaves the rest to
 * the next.
 */
export const STAGED_RUNS_MAX: u32 = 512;

/** Host operations in flight. */
export const IO_MAX: u32 = 256;
/**
 * Entries of the submission queue: operations, and messages to the requesters, which need no slot.
 */
export const SUBMISSIONS_MAX: u32 = 512;
/** Requests of the host in flight; the host queues what is above. */
export const REQUESTS_MAX: u32 = 64;
/** All tasks: the host's requests, the copies of a job, and the engine's own. */
export const TASKS_MAX: u32 = 128;
/** Of these, the places that are kept for tasks that others wait for. */
export const SERVING_TASKS_MAX: u32 = 2;
/** Copies of a job in flight. */
export const COPIES_MAX: u32 = 32;
/**
 * The same while a guest is at work: one of its requests may have to wait for a copy in flight, or
 * share the line with all of them.
 */
export const COPIES_WITH_GUEST_MAX: u32 = 4;
/** How long after its last request a guest counts as at work. */
export const GUEST_AT_WORK_MS: f64 = 250;
/** Task runs in one call of `step`, so that a host thread is never held for long. */
export const RUNS_PER_STEP_MAX: u32 = 4096;
/** Table entries that a scan looks at before it lets others run. */
export const SCAN_ENTRIES_MAX: u32 = 16384;

/**
 * The least that a check counts references in: clusters that share one page of refcounts are
 * counted together, however narrow those are.
 */
export const CHECK_WINDOW_BYTES_MIN: u32 = 1 << 20;
/**
 * Repairs of one check: of refcounts, of the snapshot table, of what that leaves behind; what was
 * wrong after the last would stay so.
 */
export const CHECK_REPAIRS_MAX: u32 = 3;

/** Unit of the data arena. */
export const BLOCK_BYTES: u32 = 65536;
/** Blocks in the largest arena (1 GiB of memory). */
export const BLOCKS_MAX: u32 = 16384;
/** Of the arena, the part that background work leaves to guest requests: one in so many. */
export const GUEST_MEMORY_SHARE: u32 = 4;

/**
 * What one copy fetches: large enough that a round trip is paid seldom, small enough that many are
 * in flight.
 */
export const CHUNK_BYTES: u32 = 1 << 20;
/**
 * Clusters that one task maps; a cluster of 2 MiB is a chunk by itself, one of 512 bytes makes
 * chunks of 128 KiB.
 */
export const CHUNK_CLUSTERS_MAX: u32 = 256;

/**
 * When data that only the cache's metadata refers to starts a write-back, if nothing else does: so
 * many bytes, and as long after the last one as that took, within bounds, or many bytes. Where
 * flushes are slow, the storage is not kept at flushing.
 */
export const WRITEBACK_BYTES_MIN: u64 = 8 << 20;
export const WRITEBACK_PAUSE_MS_MIN: f64 = 100;
export const WRITEBACK_PAUSE_MS_MAX: f64 = 500;
export const WRITEBACK_BYTES_MAX: u64 = 512 << 20;
/** Freed runs that wait until nothing on disk refers to them. */
export const FREES_MAX: u32 = 1024;

/**
 * Bytes between two compressed clusters that are fetched along with them rather than by a second
 * read.
 */
export const GAP_BYTES_MAX: u64 = 4096;

/**
 * qcow2: largest L1 table (as QEMU has it), refcount table, bitmap table (entries), backing file
 * name.
 */
export const L1_BYTES_MAX: u64 = 32 << 20;
export const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
export const BITMAP_ENTRIES_MAX: u64 = 8 << 20;
export const BACKING_NAME_BYTES_MAX: u32 = 1023;
/** The largest offset that a JavaScript number holds exactly. */
export const OFFSET_MAX: u64 = 9007199254740991;
