/** The stream job: what it is asked for, and how it stands. */
import type { ErrorCode, ErrorReason } from './errors.ts';
import type { ProfileFile } from './profile.ts';

/** How a job takes an I/O error: after libvirt's and QEMU's `on-error` policies. */
export type OnError = 'report' | 'stop' | 'ignore' | 'enospc';

/** What a stream job is asked for. All is optional: without options, the whole disk. */
export interface StreamOptions {
  /** Start of the range; default 0. */
  offset?: number;
  /** Length of the range; default to the end of the disk. 0 with offset 0 means the whole disk. */
  length?: number;
  /** Resolve as soon as the job has started; `info` then tells how it stands. */
  nonblock?: boolean;
  /** Bytes a second; 0 (the default) is unlimited. */
  speed?: number;
  /**
   * What an I/O error does: end the job (`report`, the default), pause it (`stop`), go on
   * (`ignore`), or pause on a full disk and end on others (`enospc`).
   */
  onError?: OnError;
  /**
   * Stream only down to this image of the chain, by any path or URL of it or its depth (1 is the
   * overlay's own base); it becomes the new base.
   */
  base?: string | number;
  /** Leave the overlay's reference to its base when everything is populated. */
  keepBase?: boolean;
  /** `full`: zeros take real space in the overlay too. Default `sparse`. */
  allocate?: 'sparse' | 'full';
  /**
   * `keep`: a compressed cluster of a qcow2 base whose size and method are the overlay's goes into
   * it as it is, packed as `qemu-img convert -c` packs; a guest's write makes it an ordinary one.
   * Nothing is inflated, so that damage in a stream is not found (`check` with `data` does that).
   * What does not suit is inflated as ever. An overlay without compressed clusters is given its
   * base's method, zstd too, which QEMU knows since version 5.1. Default `inflate`.
   */
  compressed?: 'inflate' | 'keep';
  /**
   * What is copied first: nothing in particular (`sequential`, the default: from start to end), or
   * what a boot profile tells, in its order; `profile` is the one that the disk itself replays.
   */
  order?: 'sequential' | 'profile' | ProfileFile;
  /** Cancels the job, blocking or not: it ends as aborted. */
  signal?: AbortSignal;
  /** Called as the events `progress` come, and when the job has completed; it must not throw. */
  onProgress?: (info: StreamInfo) => void;
}

/** `status` of a job, numbered as in libvirt's API. */
export const JobStatus = { COMPLETED: 0, ACTIVE: 1, FAILED: 2 } as const;
/** A `status`, as a type. */
export type JobStatus = (typeof JobStatus)[keyof typeof JobStatus];

/** How a job stands, or how the last one ended. */
export interface StreamInfo {
  /** 0 completed, 1 active, 2 failed. */
  status: JobStatus;
  /** Bytes of the range that are not populated; exact when the job has ended, however it ended. */
  remaining: number;
  /** Start of the range. */
  offset: number;
  /** Length of the range. */
  length: number;
  /** Bytes a second, 0 = unlimited. */
  speed: number;
  /** By `pause`, or by an error under `onError`. */
  paused: boolean;
  /** With `compressed: 'keep'`: bytes of the disk that this job has kept compressed. */
  kept?: number;
  /** Why a FAILED job failed. */
  reason?: 'aborted' | 'error';
  /**
   * The first error of the job, or where errors pause it the last; `offset` is the disk position it
   * happened at.
   */
  error?: { code: ErrorCode; reason?: ErrorReason; message: string; offset?: number };
}
