/**
 * The version of an object: what tells it from another one by the same address (RFC 9110, section
 * 8.8: validators), at the server that it was opened at, and at others.
 */
import { Failure } from '../retry.ts';
import type { Answer } from './response.ts';

/** What the first answer told of the object, and every later one must repeat. */
export interface Version {
  /** Bytes of the whole object. */
  readonly size: number;
  readonly etag?: string;
  readonly lastModified?: string;
  /**
   * Whether the Last-Modified is a strong validator: a minute older, at least, than the answer (RFC
   * 9110, section 8.8.2.2), and no placeholder.
   */
  readonly settled?: boolean;
  /** The server that told it: what ETags are compared within. */
  readonly server?: string;
}

const SETTLED_MS = 60_000;
/** Before that there was no HTTP: builds that can be repeated give all files such a date. */
const DATE_MS_MIN = Date.UTC(1990, 0);

/**
 * A strong validator (RFC 9110, section 8.8.1): equal means equal byte for byte, which is what
 * If-Range needs.
 */
export function strongEtag(version: Version): string | undefined {
  return version.etag?.startsWith('"') ? version.etag : undefined;
}

/**
 * One string that tells whether the object is still the same (compared in hosts/disk/identity.ts):
 * the strong ETag, with the modification time and a checksum of the server that told both, if that
 * time tells mirrors of the object by; else the modification time and size; else a weak ETag and
 * the size. Undefined when the server sends none of them.
 */
export function identityOf(version: Version): string | undefined {
  const strong = strongEtag(version);
  const { lastModified, settled, server } = version;
  if (strong !== undefined && lastModified !== undefined && settled && server !== undefined)
    return `etag ${strong} modified ${lastModified} at ${checksum(server)}`;
  if (strong !== undefined) return `etag ${strong}`;
  if (version.lastModified !== undefined)
    return `modified ${version.lastModified} size ${version.size}`;
  return version.etag === undefined ? undefined : `etag ${version.etag} size ${version.size}`;
}

/** FNV-1a, of 32 bits. */
export function checksum(text: string): string {
  let sum = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) sum = Math.imul(sum ^ byte, 0x01000193) >>> 0;
  return sum.toString(16).padStart(8, '0');
}

export function versionOf(headers: Answer['headers'], size: number): Version {
  const etag = headers.get('ETag') ?? undefined;
  const lastModified = headers.get('Last-Modified') ?? undefined;
  const nowMs = Date.parse(headers.get('Date') ?? '') || Date.now();
  const modifiedMs = Date.parse(lastModified ?? '');
  const settled = modifiedMs >= DATE_MS_MIN && nowMs - modifiedMs >= SETTLED_MS;
  return { size, etag, lastModified, settled };
}

/**
 * Whether what another server tells is the known version: by an equal strong ETag, or by size and
 * Last-Modified. False where neither decides, as a date that was young when it was told.
 * @throws Failure `ECHANGED` where it is another one.
 */
export function isSameElsewhere(version: Version, known: Version): boolean {
  if (version.size !== known.size) throw changed(sizeDifference(version.size, known.size));
  const etag = strongEtag(known);
  if (etag !== undefined && etag === strongEtag(version)) return true;
  if (version.lastModified === undefined || known.lastModified === undefined) return false;
  if (version.lastModified !== known.lastModified) {
    if (!known.settled) return false;
    throw changed(
      `its Last-Modified was ${known.lastModified} and is ${version.lastModified} at the server that it is redirected to now`,
    );
  }
  return (version.settled ?? false) && (known.settled ?? false);
}

/**
 * Whether two versions that one server has told, by turns, may be of one object that several nodes
 * have: of one size and date, with ETags of their own.
 */
export function mayBeNodes(version: Version, known: Version): boolean {
  const { size, lastModified, settled, etag } = version;
  const isDated = lastModified !== undefined && settled === true && known.settled === true;
  if (!isDated || size !== known.size || lastModified !== known.lastModified) return false;
  return etag !== undefined && known.etag !== undefined && etag !== known.etag;
}

export function sizeDifference(size: number, known: number): string {
  return `its size was ${known} bytes and is ${size}`;
}

/**
 * Holds an answer to the version at open. A server that never sent a validator is held to the size
 * only.
 */
export function checkVersion(version: Version, known: Version): void {
  const difference = differenceBetween(version, known);
  if (difference !== undefined) throw changed(difference);
  const validators = validatorsOf(known);
  if (validators.length > 0 && validators.every((field) => version[field] === undefined)) {
    throw new Failure(
      'EIO',
      'the answer lacks the ETag or Last-Modified of the first one, so that it may be of another version',
    );
  }
}

/**
 * What decides whether two answers are of one version: a strong ETag alone; otherwise a weak one
 * and the date, as far as sent.
 */
function validatorsOf(known: Version): ('etag' | 'lastModified')[] {
  if (strongEtag(known) !== undefined) return ['etag'];
  return (['etag', 'lastModified'] as const).filter((field) => known[field] !== undefined);
}

export function differenceBetween(version: Version, known: Version): string | undefined {
  if (version.size !== known.size) return sizeDifference(version.size, known.size);
  const field = validatorsOf(known).find(
    (field) => version[field] !== undefined && version[field] !== known[field],
  );
  if (field === undefined) return undefined;
  // Of a mirror that has the same bytes, too: that cannot be told from a change.
  return `its ${field === 'etag' ? 'ETag' : 'Last-Modified'} was ${known[field]} and is ${version[field]}, or another server answers here: then give the URL of one`;
}

export function changed(how: string): Failure {
  return new Failure(
    'ECHANGED',
    `the object is not the one that was opened: ${how}; open it again`,
  );
}
