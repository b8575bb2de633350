/**
 * Whether what an overlay records of its base and what the base tells now may be of the same bytes.
 * Kinds of identity, as the sources of ours tell them: an ETag, a time of last change told by a
 * server, or by a file system. Which of them a source can tell depends on the host: a browser does
 * not see an ETag that the server hides by CORS, and a base read from a file on one host may come
 * by HTTP on another. Any other text is the caller's own.
 */
const HTTP = /^etag ([\s\S]*?)(?: modified (.+) at ([0-9a-f]{8}))?$/;
const DATED = /^modified ([\s\S]+?)(?: size \d+)?$/;
const FILE = /^\d+--?\d+$/;
/** What tells mirrors of one object by, and what an ETag alone may do without. */
const MIRROR_PART = / modified [^"]+ at [0-9a-f]{8}$/;

interface Validators {
  etag?: string;
  modified?: string;
  /** A checksum of the server's name. */
  server?: string;
}

/** The identity without what may be left out of it where there is not enough room. */
export function shortIdentity(identity: string): string {
  return identity.startsWith('etag ') ? identity.replace(MIRROR_PART, '') : identity;
}

/** Whether an identity is a time of last change, and nothing else. */
export function isDate(identity: string): boolean {
  return FILE.test(identity) || DATED.test(identity);
}

/**
 * Two identities tell the same or another content where both are of one kind; else only the size,
 * which is known to both. Each server makes its own ETags: between two of them, the dates decide.
 */
export function mayBeSame(recorded: string | undefined, found: string | undefined): boolean {
  if (!recorded || !found || recorded === found) return true;
  const [a, b] = [validatorsOf(recorded), validatorsOf(found)];
  if (a === undefined || b === undefined)
    return a !== b || FILE.test(recorded) !== FILE.test(found);
  if (a.etag !== undefined && b.etag !== undefined) {
    if (a.etag === b.etag) return true;
    const elsewhere = a.server !== undefined && b.server !== undefined && a.server !== b.server;
    return elsewhere && a.modified === b.modified;
  }
  return a.modified === undefined || b.modified === undefined || a.modified === b.modified;
}

function validatorsOf(identity: string): Validators | undefined {
  const [, etag, modified, server] = HTTP.exec(identity) ?? [];
  if (etag !== undefined) return { etag, modified, server };
  const dated = DATED.exec(identity);
  return dated === null ? undefined : { modified: dated[1] };
}
