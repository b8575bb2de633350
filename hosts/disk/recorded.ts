/** What an overlay records of its base, and whether the base that is found is that one. */
import { IDENTITY_BYTES_MAX } from '../../engine/protocol.ts';
import type { BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { Runtime } from '../api/runtime.ts';
import { hex } from './hex.ts';
import { isDate, mayBeSame, shortIdentity } from './identity.ts';

/** What an overlay records of its base beside name and format, so that another base is noticed. */
export interface RecordedIdentity {
  size: number;
  identity?: string;
  /** What it is unpacked from, as in `gzip+tar`; then `size` is that of what is inside. */
  container?: string;
  /** Bytes of the container. */
  packed?: number;
  /** Of an image that lies in several files, what identifies the others. */
  parts?: string;
  /** Of an object that several servers have, what stands for a sample of its bytes. */
  sample?: string;
  /**
   * A checksum of the base's name: what another program has given another base, which leaves this
   * as it is, tells of that one no more.
   */
  of?: string;
}

/**
 * The text that stands for the identity of a base, which is recorded by this name, in an overlay's
 * header.
 */
export async function identityText(source: BlockSource, name: string): Promise<string> {
  return textOf(await recordOf(source), name);
}

export function textOf(record: RecordedIdentity, name: string): string {
  const { sample, ...rest } = record;
  const of = checksum(name);
  // What there is no room for is left out, what is needed least first.
  const texts = [{ ...record, of }, { ...rest, of }, rest].map((value) => JSON.stringify(value));
  return (
    texts.find((text) => new TextEncoder().encode(text).length <= IDENTITY_BYTES_MAX) ?? texts[2]
  );
}

/** FNV-1a, of 32 bits. */
function checksum(text: string): string {
  let sum = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) sum = Math.imul(sum ^ byte, 0x01000193) >>> 0;
  return sum.toString(16).padStart(8, '0');
}

/**
 * An identity whose text is longer than a header takes would not be recorded at all: a digest
 * stands for it, behind the word of its kind.
 */
export async function recordOf(
  source: Pick<BlockSource, 'size' | 'identity' | 'container'> & { parts?: string },
): Promise<RecordedIdentity> {
  const { size, identity, container, parts } = source;
  const packing = container && {
    container: container.formats.join('+'),
    packed: container.packedSize,
  };
  const whole: RecordedIdentity = { size, identity, ...packing, parts };
  const encoder = new TextEncoder();
  if (identity === undefined || encoder.encode(JSON.stringify(whole)).length <= IDENTITY_BYTES_MAX)
    return whole;
  const short = shortIdentity(identity);
  if (short !== identity) return recordOf({ size, identity: short, container, parts });
  // A page without a secure context has no digests; nor has it storage in which an overlay could
  // last.
  if (crypto.subtle === undefined) return { size, ...packing, parts };
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', encoder.encode(identity)));
  const [kind] = /^(etag |modified )?/.exec(identity)!;
  return {
    ...whole,
    identity: `${kind}sha-256:${hex(digest)}`,
  };
}

/**
 * How a base at `place` is recorded in an overlay: a URL without user, password and query, which
 * may hold credentials.
 */
export function recordedName(runtime: Runtime, place: string, overlay: string): string {
  if (!/^(https?|wss?):/i.test(place)) return runtime.record(place, overlay);
  const url = new URL(place);
  // A WebSocket's names the export of an NBD server.
  const fragment = /^ws/i.test(url.protocol) ? url.hash : '';
  return `${url.origin}${url.pathname}${fragment}`;
}

export function parseIdentity(text: string, name: string): RecordedIdentity | undefined {
  if (!text) return undefined;
  try {
    const value = JSON.parse(text.replace(/\0+$/, '')) as RecordedIdentity;
    return typeof value.size === 'number' && (value.of === undefined || value.of === checksum(name))
      ? value
      : undefined;
  } catch {
    // Not written by us, or by a version that knew another form: nothing to compare with.
    return undefined;
  }
}

/** Whether what is recorded of a base, and what is found, may be of the same bytes. */
export function isSameBase(recorded: RecordedIdentity, found: RecordedIdentity): boolean {
  const { parts = found.parts } = recorded;
  const sameParts = found.parts === undefined || parts === found.parts;
  return (
    sameParts && sizesOf(recorded, found).sameSize && mayBeSame(recorded.identity, found.identity)
  );
}

/**
 * Whether the base that `outside` is may be the recorded one, though another server has told of it
 * then.
 */
export async function isMirrored(
  recorded: RecordedIdentity,
  found: RecordedIdentity,
  outside: BlockSource,
): Promise<boolean> {
  if (recorded.identity === undefined || outside.mirrors === undefined) return false;
  if (isSameBase(recorded, found) || !sizesOf(recorded, found).sameSize) return false;
  return outside.mirrors.isRecorded(recorded.identity, recorded.sample);
}

function sizesOf(recorded: RecordedIdentity, found: RecordedIdentity) {
  const isSamePacking = recorded.packed === undefined || found.packed === undefined;
  const [was, is] = isSamePacking ? [recorded.size, found.size] : [recorded.packed, found.packed];
  return { was, is, sameSize: recorded.size === found.size && was === is };
}

/**
 * @throws MillraceError `ECHANGED` that says what differs, and which command helps where nothing
 * really has.
 */
export function checkIdentity(
  overlay: string,
  recorded: RecordedIdentity,
  found: RecordedIdentity,
  base = 'the base',
): void {
  if (isSameBase(recorded, found)) return;
  const { was, is, sameSize } = sizesOf(recorded, found);
  const detail = sameSize
    ? `it was ${readable(recorded.identity)}, and is ${readable(found.identity)}`
    : `it had ${was} bytes, and has ${is}`;
  const command = rebaseCommand(overlay, base);
  const help = sameSize
    ? `give the right base; if it holds the same bytes as before (it was copied, restored or unpacked): ${command}`
    : `give the right base; if it shows the same disk as before (its own base was streamed into it, say): ${command}`;
  throw new MillraceError(
    'ECHANGED',
    `${base} is not the base that ${overlay} was made on (${detail}): ${help}`,
  );
}

/**
 * What differs, in words, where nothing but the date does that a file system or a server told: the
 * bytes may be the same. Undefined where more differs, or nothing.
 */
export function otherDate(recorded: RecordedIdentity, found: RecordedIdentity): string | undefined {
  const { sameSize } = sizesOf(recorded, found);
  const isDated = [recorded, found].every(({ identity }) => identity && isDate(identity));
  if (!sameSize || !isDated || isSameBase(recorded, found)) return undefined;
  if (recorded.parts !== found.parts) return undefined;
  return `it was ${readable(recorded.identity)}, and is ${readable(found.identity)}`;
}

/**
 * As `checkIdentity`, of the other files of an image that lies in several.
 * @throws MillraceError `ECHANGED`.
 */
export function checkParts(
  overlay: string,
  recorded: RecordedIdentity,
  found: RecordedIdentity,
  base = 'the base',
): void {
  if (recorded.parts === undefined || found.parts === undefined) return;
  if (recorded.parts === found.parts) return;
  throw new MillraceError(
    'ECHANGED',
    `${base} is not the base that ${overlay} was made on (one of the files with its data has changed): give the right base; if it holds the same bytes as before: ${rebaseCommand(overlay, base)}`,
  );
}

/** The command that changes what an overlay says of its base, and nothing else. */
export function rebaseCommand(overlay: string, base: string): string {
  return `millrace rebase -u ${quoted(overlay)} --base ${quoted(base)}`;
}

/** What a file system or a server told, as people read it: a file's size is told by itself. */
function readable(identity = 'not known'): string {
  const [, milliseconds] = /^\d+-(-?\d+)$/.exec(identity) ?? [];
  const date = new Date(Number(milliseconds));
  if (milliseconds !== undefined && !Number.isNaN(date.getTime()))
    return `last written ${date.toISOString().replace('T', ' ').replace('Z', ' UTC')}`;
  return identity.replace(/^modified /, 'last modified ');
}

/** As a shell takes it for one word. */
function quoted(word: string): string {
  return /^[\w./:@%+=,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
