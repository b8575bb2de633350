/**
 * The one error class, and the codes it carries. A message says what was being done, to which
 * image, at which offset, and what to do about it: the command line prints it as it is, on one
 * line.
 */

/**
 * Why something failed, in the manner of errno. The numbers in the engine are kept equal by a test.
 */
export type ErrorCode =
  /** An argument, option or range that cannot be: nothing was changed. */
  | 'EINVAL'
  /** Another job, process or tab has it. */
  | 'EBUSY'
  /** No room left for the overlay. */
  | 'ENOSPC'
  /** The storage or the network failed, after all retries. */
  | 'EIO'
  /** No such file, disk, object or job. */
  | 'ENOENT'
  /** It exists already. */
  | 'EEXIST'
  /** An image's metadata contradicts itself or its file. */
  | 'ECORRUPT'
  /** Known, and not supported. */
  | 'EUNSUPPORTED'
  /** A base is not the one that the overlay was made on, or changed while it was read. */
  | 'ECHANGED'
  /** Not permitted: a file's mode, a server's 401 or 403, a token. */
  | 'EACCES'
  /** The file or disk is read-only. */
  | 'EROFS'
  /** Ended by `abort` or an AbortSignal. */
  | 'ABORTED'
  /** Something took longer than its limit. */
  | 'ETIMEDOUT'
  /** The disk has been closed. */
  | 'ECLOSED';

/**
 * Which of the causes of one code it is, where a program can do something about it. As stable as
 * the codes; new ones may be added.
 */
export type ErrorReason =
  /** `ENOENT`, `EINVAL`: the overlay's base is a file that only the user can give again. */
  | 'base-needed'
  /** `ENOENT`: there is no disk of that name in this browser, or on this server. */
  | 'no-such-disk'
  /** `EACCES`, `EUNSUPPORTED`: the server's answer is hidden from this page by CORS. */
  | 'cors'
  /** `EACCES`: the page's own policy (Content Security Policy, Trusted Types) forbids it. */
  | 'policy'
  /** `EUNSUPPORTED`: the server has no byte ranges. */
  | 'no-ranges'
  /** Some of what the guest wrote could not be stored. */
  | 'writes-lost'
  /** `EIO`: the browser has cleared the storage of this site while the disk was open. */
  | 'storage-cleared'
  /** `EIO`: the browser's storage fails. */
  | 'storage-failed'
  /** `ECHANGED`: the state of a machine that was saved does not fit its disk any more. */
  | 'state-outdated'
  /** `EIO`: the worker that has the disk has ended, or cannot run. */
  | 'worker-ended'
  /** `EIO`: the engine cannot be loaded, or has stopped. */
  | 'engine-failed';

/** Every error that Millrace throws on purpose. */
export class MillraceError extends Error {
  static {
    // Minified, the class has another name, which traces would begin with.
    Object.defineProperty(MillraceError, 'name', { value: 'MillraceError' });
  }

  /** Tells it from other errors where `instanceof` cannot. */
  override readonly name = 'MillraceError';
  /** What kind of failure it is: stable, for programs. */
  readonly code: ErrorCode;
  /** Which of the code's causes it is, where that is told. */
  readonly reason?: ErrorReason;
  /**
   * Position in the disk (or, for a source's own errors, in the source) in bytes, where there is
   * one.
   */
  readonly offset?: number;

  /** `offset` is in bytes, of what the message is about. */
  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; offset?: number; reason?: ErrorReason } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    if (options.reason !== undefined) this.reason = options.reason;
    if (options.offset !== undefined) this.offset = options.offset;
  }
}

/**
 * What a caller's own source or file may throw, by the names that systems and browsers have for it.
 * What only Millrace itself can know (that a disk is closed, a job aborted, an image corrupt) is
 * not believed of others.
 */
const SYSTEM_CODES: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: 'ENOSPC',
  EDQUOT: 'ENOSPC',
  EFBIG: 'ENOSPC',
  QuotaExceededError: 'ENOSPC',
  EIO: 'EIO',
  ENOENT: 'ENOENT',
  EACCES: 'EACCES',
  EPERM: 'EACCES',
  EROFS: 'EROFS',
  EBUSY: 'EBUSY',
  ETIMEDOUT: 'ETIMEDOUT',
  ECHANGED: 'ECHANGED',
};

/** Wrappers around wrappers; a chain of causes may also go round. */
const CAUSES_MAX = 16;

/**
 * The code that an error counts as, whoever threw it: its own if that is known, else the first
 * known one among what caused it, else `EIO`.
 */
export function codeOf(error: unknown): ErrorCode {
  if (error instanceof MillraceError) return error.code;
  let at = error;
  for (let depth = 0; depth < CAUSES_MAX && typeof at === 'object' && at !== null; depth++) {
    const { code, name, cause } = at as { code?: unknown; name?: unknown; cause?: unknown };
    // A DOMException has a number there, and its name tells.
    for (const known of [code, name])
      if (typeof known === 'string' && Object.hasOwn(SYSTEM_CODES, known))
        return SYSTEM_CODES[known];
    at = cause;
  }
  return 'EIO';
}

/** What an error says, be it no Error at all. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
