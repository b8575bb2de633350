/** Boot profiles: how they are given, recorded and replayed. */

/** A boot profile: a path or URL, or the bytes of its file. */
export type ProfileFile = string | URL | Uint8Array;

/**
 * Which boot profile is fetched ahead. `auto`: the one that stands beside a base on a server, as
 * `URL.profile`, if there is one; it is asked for once, in the background. `none`: no profile.
 */
export type ProfileChoice = 'auto' | 'none' | ProfileFile;

/** How long a boot is recorded. */
export interface RecordOptions {
  /** From the first read on; default without a limit. */
  seconds?: number;
  /**
   * Ends when the guest has read nothing for the first time for so many seconds; default 30, and no
   * such end where `seconds` are given.
   */
  quiet?: number;
}

/** A boot that was recorded. */
export interface RecordedProfile {
  /** The file of its profile. */
  data: Uint8Array;
  /** Places that were read, as the file tells them, and their bytes. */
  ranges: number;
  /** Bytes. */
  bytes: number;
  /** From the first read to the last. */
  seconds: number;
  /** Reads of the guest, and those of them that had to wait for the base. */
  reads: number;
  /** See `reads`. */
  waits: number;
  /** What ended it: `profile` itself, the time, a quiet guest, or a limit of what is recorded. */
  ended: 'told' | 'time' | 'quiet' | 'full';
  /**
   * What the guest would wait for its disk in all over a usual line, by what was recorded: without
   * the profile, and with it.
   */
  estimate: {
    /** Of the line. */
    roundTripMs: number;
    /** Of the line. */
    bitsPerSecond: number;
    /** Seconds. */
    without: number;
    /** Seconds. */
    with: number;
  };
}

/** What became of a boot profile. */
export interface ReplayInfo {
  /**
   * `done`: all of it was asked for; `yielded`: the guest read something else; `stopped`: the disk
   * was closed before; `failed`: the base or the overlay did; `none`: there is no profile;
   * `unusable`: there is one, and it is not taken.
   */
  outcome: 'done' | 'yielded' | 'stopped' | 'failed' | 'none' | 'unusable';
  /** Where the profile came from. */
  source?: string;
  /** Why it was not taken, or failed. */
  message?: string;
  /** Bytes that were asked for, and those of them that the overlay did not have. */
  asked: number;
  /** See `asked`. */
  fetched: number;
  /** Requests of the disk that fetched something. */
  requests: number;
}
