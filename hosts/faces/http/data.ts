/**
 * The flat disk by HTTP: ranges and conditions as in RFC 9110 (sections 13 and 14), so that any
 * client can use a served disk as a raw base. A body never mixes two contents: where the disk is
 * changed under it, it is cut off.
 */
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import { hex } from '../../disk/hex.ts';

/** Bytes read from the disk at once. */
const PIECE_BYTES = 1024 * 1024;

/** `[first, end)` of the disk, in bytes. */
interface ByteRange {
  first: number;
  end: number;
}

/** What a disk can tell of its content that is no public call: see hosts/disk/disk.ts. */
interface Telling {
  readonly changes?: number;
  contentId?(): Promise<string>;
}

/**
 * Answers GET and HEAD. `identity` is of the disk's content when the handler began; undefined where
 * the disk itself is to tell.
 */
export async function answerData(
  request: Request,
  disk: Disk,
  identity: string | undefined,
): Promise<Response> {
  const etag = await etagOf(disk, identity);
  const headers = new Headers({
    'Content-Type': 'application/octet-stream',
    'Accept-Ranges': 'bytes',
    ETag: etag,
    'Cache-Control': 'private, no-cache',
  });
  const wanted = request.headers.get('If-Match');
  if (wanted !== null && !hasStrongly(wanted, etag)) {
    return refuse(
      request,
      412,
      headers,
      new MillraceError(
        'ECHANGED',
        `the disk is not the one that was asked for (If-Match: ${wanted})`,
      ),
    );
  }
  if (matches(request.headers.get('If-None-Match'), etag))
    return new Response(null, { status: 304, headers });
  const asked = rangeAsked(request, etag);
  if (asked === undefined) return give(request, disk, { first: 0, end: disk.size }, 200, headers);
  const range = rangeOf(asked, disk.size);
  if (range === undefined) {
    headers.set('Content-Range', `bytes */${disk.size}`);
    return refuse(request, 416, headers, unsatisfiable(asked, disk.size));
  }
  headers.set('Content-Range', `bytes ${range.first}-${range.end - 1}/${disk.size}`);
  return give(request, disk, range, 206, headers);
}

/** A refusal that tells of the disk in its headers. */
function refuse(
  request: Request,
  status: number,
  headers: Headers,
  { code, reason, message }: MillraceError,
): Response {
  headers.set('Content-Type', 'application/json');
  return new Response(
    request.method === 'HEAD' ? null : JSON.stringify({ code, reason, message }),
    {
      status,
      headers,
    },
  );
}

async function give(
  request: Request,
  disk: Disk,
  range: ByteRange,
  status: number,
  headers: Headers,
): Promise<Response> {
  headers.set('Content-Length', String(range.end - range.first));
  if (request.method === 'HEAD' || range.first === range.end)
    return new Response(null, { status, headers });
  const changes = changesOf(disk);
  // The first piece before the answer begins: an error in it shows in the status.
  const first = await piece(disk, range, changes);
  if (range.first + first.length === range.end)
    return new Response(first as Uint8Array<ArrayBuffer>, { status, headers });
  return new Response(sized(rest(disk, range, changes, first), range.end - range.first), {
    status,
    headers,
  });
}

/**
 * workerd sends a length of its own accord with a body only that is known to have it, and in chunks
 * what is not.
 */
function sized(body: ReadableStream<Uint8Array>, length: number): ReadableStream<Uint8Array> {
  const { FixedLengthStream } = globalThis as {
    FixedLengthStream?: new (length: number) => TransformStream<Uint8Array, Uint8Array>;
  };
  return FixedLengthStream ? body.pipeThrough(new FixedLengthStream(length)) : body;
}

function rest(
  disk: Disk,
  range: ByteRange,
  changes: number,
  first: Uint8Array,
): ReadableStream<Uint8Array> {
  let next: Uint8Array | undefined = first;
  let at = range.first;
  return new ReadableStream({
    async pull(controller) {
      const bytes = next ?? (await piece(disk, { first: at, end: range.end }, changes));
      next = undefined;
      at += bytes.length;
      controller.enqueue(bytes);
      if (at === range.end) controller.close();
    },
  });
}

async function piece(disk: Disk, { first, end }: ByteRange, changes: number): Promise<Uint8Array> {
  const bytes = await disk.read(first, Math.min(PIECE_BYTES, end - first));
  if (changesOf(disk) !== changes)
    throw new MillraceError('ECHANGED', 'the disk was changed while it was read', {
      offset: first,
    });
  return bytes;
}

/**
 * A disk that can tell counts the changes of its content; one that cannot must not be changed while
 * it is served.
 */
function changesOf(disk: Disk): number {
  return (disk as Telling).changes ?? 0;
}

/**
 * A strong validator (RFC 9110, section 8.8.1). A digest, since an identity may hold characters
 * that a header does not.
 */
async function etagOf(disk: Disk, identity: string | undefined): Promise<string> {
  const content =
    identity === undefined
      ? ((await (disk as Telling).contentId?.()) ?? uniqueOf(disk))
      : [identity, changesOf(disk)];
  const text = JSON.stringify([content, disk.size]);
  const digest = new Uint8Array(
    await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)),
  );
  return `"${hex(digest.subarray(0, 16))}"`;
}

const uniques = new WeakMap<Disk, string>();

/** Of a disk that tells nothing: as long as it is open, and not changed. */
function uniqueOf(disk: Disk): string {
  const unique = uniques.get(disk) ?? crypto.randomUUID();
  uniques.set(disk, unique);
  return unique;
}

/** If-None-Match (section 13.1.2): a list of tags, compared weakly, or any. */
function matches(header: string | null, etag: string): boolean {
  if (header === null) return false;
  return (
    header.trim() === '*' ||
    header.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag)
  );
}

/** If-Match (section 13.1.1): a list of tags, compared strongly, or any. */
function hasStrongly(header: string, etag: string): boolean {
  return header.trim() === '*' || header.split(',').some((tag) => tag.trim() === etag);
}

/**
 * The range that counts: none of a HEAD, none of a unit other than bytes (section 14.2), and none
 * when If-Range (section 13.1.5) names another content.
 */
function rangeAsked(request: Request, etag: string): string | undefined {
  const range = request.headers.get('Range');
  const condition = request.headers.get('If-Range');
  if (range === null || request.method === 'HEAD' || !/^bytes\s*=/i.test(range)) return undefined;
  return condition === null || condition.trim() === etag ? range : undefined;
}

/**
 * `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LENGTH` (section 14.1.2); undefined when the disk
 * has nothing of it, or when it is more than one range, which would have to be answered as
 * multipart.
 * @throws MillraceError `EINVAL` when it is none.
 */
function rangeOf(text: string, size: number): ByteRange | undefined {
  if (text.includes(',')) return undefined;
  const [, first, last] = /^bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*$/i.exec(text) ?? [];
  if (first === undefined || first + last === '')
    throw new MillraceError('EINVAL', `'${text}' is not a range of bytes`);
  if (first === '')
    return Number(last) === 0 || size === 0
      ? undefined
      : { first: Math.max(0, size - Number(last)), end: size };
  if (last !== '' && Number(last) < Number(first))
    throw new MillraceError('EINVAL', `'${text}' ends before it begins`);
  return Number(first) >= size
    ? undefined
    : { first: Number(first), end: last === '' ? size : Math.min(Number(last) + 1, size) };
}

function unsatisfiable(text: string, size: number): MillraceError {
  if (text.includes(','))
    return new MillraceError(
      'EUNSUPPORTED',
      'more than one range a request is not supported: ask for each by itself',
    );
  return new MillraceError('EINVAL', `'${text}' lies outside the disk, which has ${size} bytes`);
}
