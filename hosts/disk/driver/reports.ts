/** Where each number stands in the engine's reports (engine/index.ts, `info` and `image`). */

/** The job. */
export const JobField = {
  status: 0,
  paused: 1,
  aborted: 2,
  error: 3,
  reason: 4,
  errorImage: 5,
  errorOffset: 6,
  detail: 7,
  stops: 8,
  from: 9,
  to: 10,
  remaining: 11,
  speed: 12,
  copies: 13,
} as const;

/** An image. Texts are given by position and length in its header page. */
export const ImageField = {
  format: 0,
  size: 1,
  fileSize: 2,
  version: 3,
  clusterSize: 4,
  compression: 5,
  refcountBits: 6,
  lazyRefcounts: 7,
  extendedL2: 8,
  corrupt: 9,
  dirty: 10,
  nameAt: 11,
  nameBytes: 12,
  formatAt: 13,
  formatBytes: 14,
  identityAt: 15,
  identityBytes: 16,
  snapshots: 17,
  bitmaps: 18,
} as const;
