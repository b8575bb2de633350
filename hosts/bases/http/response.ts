/**
 * Whether an answer is the one that was asked for: RFC 9110 sections 14 (ranges), 8.8 (validators) and 15 (status codes), each
 * field checked before anything depends on it. It reads headers only, never the body, and refuses by name what does not fit.
 */
import { Failure, isTransientStatus, parseRetryAfter } from './retry.ts';

/** As much of a `Response` as is needed here; a host's own transport gives no more. */
export type Answer = Pick<Response, 'status' | 'statusText' | 'type'> & {
  headers: Pick<Headers, 'get'>;
  body: AnswerBody | null;
};

export interface AnswerBody {
  getReader(): PieceReader;
  cancel(): Promise<void>;
}

/** Reads a body piece by piece, as it arrives. */
export interface PieceReader {
  read(): Promise<{ done: boolean; value?: Uint8Array }>;
  cancel(): Promise<void>;
}

/** What the first answer told of the object, and every later one must repeat. */
export interface Version {
  /** Bytes of the whole object. */
  readonly size: number;
  readonly etag?: string;
  readonly lastModified?: string;
}

/** `[first, end)` of the object, in bytes. */
export interface ByteRange {
  readonly first: number;
  readonly end: number;
}

/** A strong validator (RFC 9110, section 8.8.1): equal means equal byte for byte, which is what If-Range needs. */
export function strongEtag(version: Version): string | undefined {
  return version.etag?.startsWith('"') ? version.etag : undefined;
}

/**
 * One string that stays the same as long as the object does: the strong ETag; else the modification time and size; else a weak
 * ETag and the size. Undefined when the server sends none of them.
 */
export function identityOf(version: Version): string | undefined {
  const strong = strongEtag(version);
  if (strong !== undefined) return `etag ${strong}`;
  if (version.lastModified !== undefined)
    return `modified ${version.lastModified} size ${version.size}`;
  return version.etag === undefined ? undefined : `etag ${version.etag} size ${version.size}`;
}

/** What a good answer holds: bytes from where they were asked for up to `end`, of this version. */
export interface Checked {
  readonly version: Version;
  readonly end: number;
}

/**
 * Checks the answer to a request for `asked`. With `known` (the version at open) it must be of the same version. Without, the object may
 * end before `asked` does, and an empty object, which has no range at all, gives size 0.
 * @throws Failure saying what is wrong with it; transient where another try may help.
 */
export function checkResponse(
  response: Answer,
  asked: ByteRange,
  known: Version | undefined,
): Checked {
  if (response.status === 206) return checkPartial(response, asked, known);
  if (response.status === 200) return { version: checkWhole(response, known), end: 0 };
  if (response.status === 416) return { version: checkUnsatisfiable(response, known), end: 0 };
  throw failureOfStatus(response);
}

/** A server may send less than it was asked for, and tells how much (section 15.3.7). */
function checkPartial(response: Answer, asked: ByteRange, known: Version | undefined): Checked {
  const { headers } = response;
  if (/^multipart\/byteranges/i.test(headers.get('Content-Type') ?? '')) {
    throw new Failure('EUNSUPPORTED', 'the server answered one range with multipart/byteranges');
  }
  checkEncoding(headers);
  const got = parseContentRange(response);
  const version = versionOf(headers, got.size);
  if (known !== undefined) checkVersion(version, known);
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
  return { version, end: got.end };
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

function parseContentRange(response: Answer): ByteRange & { size: number } {
  const text = response.headers.get('Content-Range');
  if (text === null) {
    if (response.type !== 'cors')
      throw new Failure('EIO', 'the server answered 206 without a Content-Range');
    const fix = 'Access-Control-Expose-Headers: Content-Range, ETag';
    throw new Failure(
      'EUNSUPPORTED',
      `the answer's Content-Range is hidden from this page by CORS: the server must send ${fix}`,
    );
  }
  const match = /^bytes +(\d+)-(\d+)\/(\d+|\*)$/i.exec(text.trim());
  if (match === null)
    throw new Failure('EIO', `the server sent a Content-Range that cannot be read (${text})`);
  if (match[3] === '*')
    throw new Failure(
      'EUNSUPPORTED',
      `the server does not tell the object's size (Content-Range: ${text})`,
    );
  const [first, last, size] = match.slice(1).map(Number);
  if (!Number.isSafeInteger(size))
    throw new Failure(
      'EUNSUPPORTED',
      `the object is larger than 2^53 - 1 bytes (Content-Range: ${text})`,
    );
  if (first > last || last >= size)
    throw new Failure('EIO', `the server sent an impossible Content-Range (${text})`);
  return { first, end: last + 1, size };
}

function versionOf(headers: Answer['headers'], size: number): Version {
  const etag = headers.get('ETag') ?? undefined;
  const lastModified = headers.get('Last-Modified') ?? undefined;
  return { size, etag, lastModified };
}

/** Holds an answer to the version at open. A server that never sent a validator is held to the size only. */
function checkVersion(version: Version, known: Version): void {
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

/** What decides whether two answers are of one version: a strong ETag alone; otherwise a weak one and the date, as far as sent. */
function validatorsOf(known: Version): ('etag' | 'lastModified')[] {
  if (strongEtag(known) !== undefined) return ['etag'];
  return (['etag', 'lastModified'] as const).filter((field) => known[field] !== undefined);
}

function differenceBetween(version: Version, known: Version): string | undefined {
  if (version.size !== known.size) return `its size was ${known.size} bytes and is ${version.size}`;
  const field = validatorsOf(known).find(
    (field) => version[field] !== undefined && version[field] !== known[field],
  );
  if (field === undefined) return undefined;
  // Of a mirror, or a node behind a balancer, that has the same bytes, too: that cannot be told from a change.
  return `its ${field === 'etag' ? 'ETag' : 'Last-Modified'} was ${known[field]} and is ${version[field]}, or another server answers here: then give the URL of one`;
}

/** 200 is the whole object: a server that ignores Range, or one that saw by If-Range that the object changed. Or there are no bytes. */
function checkWhole(response: Answer, known: Version | undefined): Version {
  checkEncoding(response.headers);
  const length = response.headers.get('Content-Length');
  if (known === undefined) {
    if (length !== null && Number(length) === 0) return versionOf(response.headers, 0);
  } else {
    const version = versionOf(response.headers, length === null ? known.size : Number(length));
    const difference = differenceBetween(version, known);
    if (difference !== undefined) throw changed(difference);
  }
  const what = 'the server ignores Range (it answered 200 with the whole object)';
  // One that has heeded it before, as a cache does for what it holds, may do so again.
  throw new Failure('EUNSUPPORTED', `${what}: a base needs a server with byte ranges`, {
    transient: known !== undefined,
  });
}

/** 416 tells the size as `bytes * / size`. For an empty object it is the right answer: no range of it exists. */
function checkUnsatisfiable(response: Answer, known: Version | undefined): Version {
  const size = /^bytes +\*\/(\d+)$/i.exec(response.headers.get('Content-Range') ?? '')?.[1];
  if (known === undefined && Number(size) === 0) return versionOf(response.headers, 0);
  if (known !== undefined && size !== undefined && Number(size) !== known.size) {
    throw changed(`its size was ${known.size} bytes and is ${size}`);
  }
  throw new Failure(
    'EIO',
    'the server refused a range inside the object (416 Range Not Satisfiable)',
  );
}

function failureOfStatus(response: Answer): Failure {
  const { status } = response;
  const said = `the server answered ${status}${response.statusText === '' ? '' : ` ${response.statusText}`}`;
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

function changed(how: string): Failure {
  return new Failure(
    'ECHANGED',
    `the object is not the one that was opened: ${how}; open it again`,
  );
}
