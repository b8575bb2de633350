/**
 * Whether an answer is the one that was asked for: RFC 9110 sections 14 (ranges) and 15
 * (status codes), each field checked before anything depends on it. It reads headers only,
 * never the body, and refuses by name what does not fit.
 */
import { Failure, isTransientStatus, parseRetryAfter } from '../retry.ts';
import type { Version } from './version.ts';
import {
  changed,
  checkVersion,
  differenceBetween,
  isSameElsewhere,
  mayBeNodes,
  sizeDifference,
  versionOf,
} from './version.ts';

/** As much of a `Response` as is needed here; a host's own transport gives no more. */
export type Answer = Pick<Response, 'status' | 'statusText' | 'type'> & {
  headers: Pick<Headers, 'get'>;
  body: AnswerBody | null;
  /**
   * Where it came from in the end, after redirects; empty or left out where the transport does not
   * tell.
   */
  url?: string;
  /** The proxy that it came through, as messages may show it. */
  via?: string;
};

/** As much of a body's stream as is needed here. */
export interface AnswerBody {
  /** Reads it from its start. */
  getReader(): PieceReader;
  /** Takes no more of it. */
  cancel(): Promise<void>;
}

/** Reads a body piece by piece, as it arrives. */
export interface PieceReader {
  /** The next piece, or `done`. */
  read(): Promise<{ done: boolean; value?: Uint8Array }>;
  /** Takes no more of it. */
  cancel(): Promise<void>;
}

/**
 * An object that a server without byte ranges sends whole is kept in memory, if it is no larger
 * than this.
 */
export const WHOLE_BYTES_MAX: number = 16 * 1024 * 1024;

/** `[first, end)` of the object, in bytes. */
export interface ByteRange {
  readonly first: number;
  readonly end: number;
}

/** What a good answer holds: bytes from where they were asked for up to `end`, of this version. */
export interface Checked {
  readonly version: Version;
  readonly end: number;
  /**
   * Neither ETag nor date tell whether it is of the known version, which another server has told:
   * its bytes have to.
   */
  readonly unsure?: boolean;
}

/** What is known when an answer arrives. */
export interface Known {
  /** What its own server has told before; of another server where `elsewhere`. */
  readonly version?: Version;
  readonly elsewhere?: boolean;
  /** The object's size, for an answer whose Content-Range does not tell it. */
  readonly size?: number;
}

/**
 * Checks the answer to a request for `asked`. With a known version it must be of the same version.
 * Without, the object may end before `asked` does, and an empty object, which has no range at all,
 * gives size 0.
 * @throws Failure saying what is wrong with it; transient where another try may help.
 */
export function checkResponse(
  response: Answer,
  asked: ByteRange,
  { version: known, elsewhere = false, size }: Known,
): Checked {
  if (response.status === 206) return checkPartial(response, asked, known, elsewhere, size);
  if (response.status === 200) return { version: checkWhole(response, known, elsewhere), end: 0 };
  if (response.status === 416) return { version: checkUnsatisfiable(response, known), end: 0 };
  throw failureOfStatus(response);
}

/** A server may send less than it was asked for, and tells how much (section 15.3.7). */
function checkPartial(
  response: Answer,
  asked: ByteRange,
  known: Version | undefined,
  elsewhere: boolean,
  size: number | undefined,
): Checked {
  const { headers } = response;
  if (/^multipart\/byteranges/i.test(headers.get('Content-Type') ?? '')) {
    throw new Failure('EUNSUPPORTED', 'the server answered one range with multipart/byteranges');
  }
  checkEncoding(headers);
  const got = parseContentRange(response, size);
  const version = versionOf(headers, got.size);
  const unsure = known !== undefined && elsewhere && !isSameElsewhere(version, known);
  if (known !== undefined && !elsewhere) checkVersion(version, known);
  if (got.first !== asked.first || got.end > asked.end) {
    throw new Failure(
      'EIO',
      `the server sent another range than asked (Content-Range: bytes ${got.first}-${got.end - 1}/${got.size})`,
    );
  }
  const length = headers.get('Content-Length');
  if (length !== null && Number(length) !== got.end - got.first) {
    throw new Failure(
      'EIO',
      `the answer contradicts itself: Content-Length ${length} for a range of ${got.end - got.first} bytes`,
    );
  }
  return { version, end: got.end, unsure };
}

function checkEncoding(headers: Answer['headers']): void {
  const encoding = headers.get('Content-Encoding');
  if (encoding !== null && encoding.trim().toLowerCase() !== 'identity') {
    const what = `the server compresses what it sends (Content-Encoding: ${encoding}) although asked for identity`;
    throw new Failure(
      'EUNSUPPORTED',
      `${what}, so that ranges are not of the image: turn that off for this URL`,
    );
  }
}

/** The object's size as an answer tells it: a part, or the whole; undefined where it does not. */
export function sizeTold({ status, headers }: Answer): number | undefined {
  const told =
    status === 206
      ? /\/(\d+)\s*$/.exec(headers.get('Content-Range') ?? '')?.[1]
      : /^\d+$/.exec(headers.get('Content-Length') ?? '')?.[0];
  return told === undefined ? undefined : Number(told);
}

/** Whether a 206 leaves the object's size open (`bytes 0-99/*`): it has to be asked for. */
export function hidesSize({ status, headers }: Answer): boolean {
  return status === 206 && /\/\*\s*$/.test(headers.get('Content-Range') ?? '');
}

/**
 * The size that the answer to a HEAD tells for the object of which `part` is; undefined where it
 * does not.
 */
export function sizeOfHead(head: Answer, part: Answer): number | undefined {
  const length = head.headers.get('Content-Length');
  if (head.status !== 200 || length === null || !/^\d+$/.test(length)) return undefined;
  checkEncoding(head.headers);
  const size = Number(length);
  const [here, there] = [versionOf(part.headers, size), versionOf(head.headers, size)];
  // Another node may have answered.
  if (!mayBeNodes(here, there)) checkVersion(here, there);
  return size;
}

/**
 * What the answer to a HEAD tells of an object that is to be read by ranges; undefined where it
 * does not tell the size, what identifies the content, and that there are ranges.
 */
export function versionOfHead({ status, headers }: Answer): Version | undefined {
  const length = headers.get('Content-Length');
  if (status !== 200 || length === null || !/^[1-9]\d*$/.test(length)) return undefined;
  if (!/^bytes$/i.test(headers.get('Accept-Ranges')?.trim() ?? '')) return undefined;
  if (headers.get('Content-Encoding') !== null) return undefined;
  const version = versionOf(headers, Number(length));
  return version.etag === undefined && version.lastModified === undefined ? undefined : version;
}

function parseContentRange(
  response: Answer,
  told: number | undefined,
): ByteRange & { size: number } {
  const text = response.headers.get('Content-Range');
  if (text === null) {
    if (response.type !== 'cors')
      throw new Failure('EIO', 'the server answered 206 without a Content-Range');
    const fix = 'Access-Control-Expose-Headers: Content-Range, ETag';
    throw new Failure(
      'EUNSUPPORTED',
      `the answer's Content-Range is hidden from this page by CORS: the server must send ${fix}`,
      { reason: 'cors' },
    );
  }
  const match = /^bytes +(\d+)-(\d+)\/(\d+|\*)$/i.exec(text.trim());
  if (match === null)
    throw new Failure('EIO', `the server sent a Content-Range that cannot be read (${text})`);
  if (match[3] === '*' && told === undefined)
    throw new Failure(
      'EUNSUPPORTED',
      `the server does not tell the object's size (Content-Range: ${text})`,
    );
  const [first, last] = match.slice(1).map(Number);
  const size = match[3] === '*' ? told! : Number(match[3]);
  if (!Number.isSafeInteger(size))
    throw new Failure(
      'EUNSUPPORTED',
      `the object is larger than 2^53 - 1 bytes (Content-Range: ${text})`,
    );
  if (first > last || last >= size)
    throw new Failure('EIO', `the server sent an impossible Content-Range (${text})`);
  return { first, end: last + 1, size };
}

/**
 * 200 is the whole object: a server that ignores Range, or one that saw by If-Range that the object
 * changed. Or there are no bytes.
 */
function checkWhole(response: Answer, known: Version | undefined, elsewhere: boolean): Version {
  checkEncoding(response.headers);
  const length = response.headers.get('Content-Length');
  if (known === undefined) {
    if (length !== null && Number(length) === 0) return versionOf(response.headers, 0);
  } else {
    const version = versionOf(response.headers, length === null ? known.size : Number(length));
    if (elsewhere) isSameElsewhere(version, known);
    const difference = elsewhere ? undefined : differenceBetween(version, known);
    if (difference !== undefined) throw changed(difference);
  }
  const what = 'the server ignores Range (it answered 200 with the whole object)';
  // One that has heeded it before, as a cache does for what it holds, may do so again.
  throw new Failure(
    'EUNSUPPORTED',
    `${what}: a base of more than ${WHOLE_BYTES_MAX >> 20} MiB, or whose size is not told, needs a server with byte ranges; take it from start to end (sequential, --sequential), or download it and give its path`,
    {
      reason: 'no-ranges',
      transient: known !== undefined,
    },
  );
}

/**
 * The size of an object that comes whole (200) in answer to the first request, if it is small
 * enough to be kept in memory; undefined for any other answer. A page for people, such as a login
 * form, is no object: many sites answer any URL with one.
 * @throws Failure where the body is not the object's own bytes.
 */
export function smallWhole({ status, headers }: Answer): Version | undefined {
  const length = headers.get('Content-Length');
  if (status !== 200 || length === null || !/^\d+$/.test(length)) return undefined;
  const size = Number(length);
  if (size === 0 || size > WHOLE_BYTES_MAX) return undefined;
  checkEncoding(headers);
  const type = headers.get('Content-Type') ?? '';
  if (/^(text\/html|application\/(xhtml|json))/i.test(type.trim()))
    throw new Failure(
      'EUNSUPPORTED',
      `the server sent a page (${type}) in place of an image: check the URL`,
    );
  return versionOf(headers, size);
}

/** An object that comes whole, in order. */
export interface Whole {
  readonly version: Version;
  /** Bytes; undefined where the server does not tell. */
  readonly size: number | undefined;
}

/**
 * What a server tells that sends the whole object (200) whatever range is asked for. With a known
 * version it must be of the same one.
 * @throws Failure saying what is wrong with it
 */
export function checkInOrder(response: Answer, known?: Whole): Whole {
  if (response.status !== 200) throw failureOfStatus(response);
  checkEncoding(response.headers);
  const length = response.headers.get('Content-Length');
  const size = length !== null && /^\d+$/.test(length) ? Number(length) : undefined;
  const version = versionOf(response.headers, size ?? 0);
  if (known !== undefined) {
    if (size !== known.size) throw changed(sizeDifference(size ?? 0, known.size ?? 0));
    checkVersion(version, known.version);
  }
  return { version, size };
}

/**
 * 416 tells the size as `bytes * / size`. For an empty object it is the right answer: no range of
 * it exists.
 */
function checkUnsatisfiable(response: Answer, known: Version | undefined): Version {
  const size = /^bytes +\*\/(\d+)$/i.exec(response.headers.get('Content-Range') ?? '')?.[1];
  if (known === undefined && Number(size) === 0) return versionOf(response.headers, 0);
  if (known !== undefined && size !== undefined && Number(size) !== known.size) {
    throw changed(sizeDifference(Number(size), known.size));
  }
  throw new Failure(
    'EIO',
    'the server refused a range inside the object (416 Range Not Satisfiable)',
  );
}

function failureOfStatus(response: Answer): Failure {
  const { status, statusText, via } = response;
  if (status === 407)
    return new Failure(
      'EACCES',
      `the proxy${via === undefined ? '' : ` ${via}`} wants credentials (407): give them in its URL, as http://USER:PASSWORD@HOST:PORT`,
    );
  const through = via === undefined ? '' : ` through the proxy ${via}`;
  const said = `the server answered ${status}${statusText === '' ? '' : ` ${statusText}`}${through}`;
  if (status === 401 || status === 403) {
    return new Failure('EACCES', `${said}: check the credentials, or whether the URL has expired`, {
      expired: true,
    });
  }
  // Google's object store says so of a signature that has expired.
  if (status === 400)
    return new Failure('EIO', `${said}, which is no answer to a range request`, { expired: true });
  if (status === 404 || status === 410) return new Failure('ENOENT', `${said}: check the URL`);
  if (status === 412) return changed('the server says so (412 Precondition Failed)');
  if (isTransientStatus(status)) {
    // By the server's own clock, if it tells it: ours may be another.
    const nowMs = Date.parse(response.headers.get('Date') ?? '') || Date.now();
    const retryAfterMs = parseRetryAfter(response.headers.get('Retry-After'), nowMs);
    return new Failure('EIO', said, {
      transient: true,
      busy: status === 429 || status === 503,
      retryAfterMs,
    });
  }
  return new Failure('EIO', `${said}, which is no answer to a range request`);
}
