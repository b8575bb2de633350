/**
 * The headers of tar archives: ustar, pax (POSIX.1-2001) and GNU tar, with long names, large sizes
 * and sparse files (GNU tar manual, "Storing Sparse Files", "Basic Tar Format").
 */
import { charactersOf, corrupt, hasAt } from './bytes.ts';
import type { Piece } from './pieces.ts';

export const TAR_BLOCK: number = 512;
/** A pax header, a long name, an OVF descriptor: what is read whole. */
export const TEXT_BYTES_MAX: number = 1024 * 1024;
const PIECES_MAX = 1_000_000;
/** Of a map of a sparse file: the digits of 2^64, and the end of the line. */
const MAP_LINE_BYTES_MAX = 21;
/** Each costs a request, those that only tell of the next as well. */
const HEADERS_MAX = 30_000;

/** A file of the archive. */
export interface TarMember {
  name: string;
  /** Bytes of the file. */
  size: number;
  /** Bytes that stand for it in the archive from `at` on. */
  stored: number;
  at: number;
  /** What of it is stored, by places in the archive; undefined for all of it. */
  pieces?: Piece[];
}

/** Where the bytes of an archive come from; `at` never goes back where they come in order. */
export interface TarInput {
  readonly name: string | undefined;
  /** Exactly so many bytes. */
  read(at: number, length: number): Promise<Uint8Array>;
  /** Whether there is anything at `at`. */
  reaches(at: number): Promise<boolean>;
}

/**
 * Whether a file begins with a header: its checksum is the sum of its bytes, with spaces in its own
 * place.
 */
export function startsTar(start: Uint8Array): boolean {
  if (start.length < TAR_BLOCK || !hasAt(start, 257, 'ustar')) return false;
  const sum = start
    .subarray(0, TAR_BLOCK)
    .reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 0x20 : byte), 0);
  return number(start, 148, 8) === sum;
}

/** The files of an archive, in order; each is to be taken before the next is asked for. */
export async function* tarMembers(input: TarInput): AsyncGenerator<TarMember> {
  let pax = new Map<string, string>();
  let longName: string | undefined;
  let sparse00: number[] = [];
  for (let at = 0, headers = 0; await input.reaches(at); headers++) {
    if (headers === HEADERS_MAX)
      throw corrupt(input.name, 'tar', `it has more than ${HEADERS_MAX} headers`);
    const header = await input.read(at, TAR_BLOCK);
    if (header.every((byte) => byte === 0)) return;
    if (!startsTar(header)) throw corrupt(input.name, 'tar', `there is no header at ${at}`);
    at += TAR_BLOCK;
    const size = sizeOf(header, pax, input.name);
    const type = charactersOf(header.subarray(156, 157));
    if (type === 'x' || type === 'L') {
      const text = await textAt(input, at, size);
      if (type === 'L') longName = text.replace(/\0[\s\S]*$/, '');
      else [pax, sparse00] = paxOf(text, input.name);
    } else if (/^[07\0S]$/.test(type)) {
      const name = pax.get('GNU.sparse.name') ?? pax.get('path') ?? longName ?? nameOf(header);
      const member = { name, size, stored: size, at };
      const map =
        type === 'S'
          ? await oldMap(input, header, member)
          : await paxMap(input, pax, sparse00, member);
      yield map;
      at = member.at;
    }
    if (!/^[xL]$/.test(type)) {
      [pax, longName, sparse00] = [new Map(), undefined, []];
      // Of a directory, a link or a device there is no data, whatever its size says.
      if (/^[1-6]$/.test(type)) continue;
    }
    at += Math.ceil(size / TAR_BLOCK) * TAR_BLOCK;
  }
}

function sizeOf(header: Uint8Array, pax: Map<string, string>, name: string | undefined): number {
  const isFile = !/[xgLK]/.test(charactersOf(header.subarray(156, 157)));
  const told = isFile ? pax.get('size') : undefined;
  const size = told === undefined ? number(header, 124, 12) : Number(told);
  if (!Number.isSafeInteger(size) || size < 0)
    throw corrupt(name, 'tar', 'a file has an invalid size');
  return size;
}

/** Octal digits, or binary where the first bit is set. */
function number(bytes: Uint8Array, at: number, length: number): number {
  const field = bytes.subarray(at, at + length);
  if (field[0] & 0x80)
    return field.subarray(1).reduce((sum, byte) => sum * 256 + byte, field[0] & 0x7f);
  const text = charactersOf(field)
    .replace(/[\0 ]+$/, '')
    .trimStart();
  return text === '' ? 0 : /^[0-7]+$/.test(text) ? Number.parseInt(text, 8) : Number.NaN;
}

function nameOf(header: Uint8Array): string {
  const text = (at: number, length: number): string =>
    new TextDecoder().decode(header.subarray(at, at + length)).replace(/\0[\s\S]*$/, '');
  const prefix = hasAt(header, 257, 'ustar\0') ? text(345, 155) : '';
  return prefix === '' ? text(0, 100) : `${prefix}/${text(0, 100)}`;
}

async function textAt(input: TarInput, at: number, size: number): Promise<string> {
  if (size > TEXT_BYTES_MAX) throw corrupt(input.name, 'tar', `a header of ${size} bytes at ${at}`);
  return new TextDecoder().decode(await input.read(at, size));
}

/**
 * Records of the form `LENGTH KEY=VALUE\n`; of sparse files of version 0.0, a key stands there
 * again and again.
 */
function paxOf(text: string, name: string | undefined): [Map<string, string>, number[]] {
  const bytes = new TextEncoder().encode(text);
  const records = new Map<string, string>();
  const numbers: number[] = [];
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(0x20, at);
    const length = Number(charactersOf(bytes.subarray(at, Math.max(at, Math.min(space, at + 10)))));
    const isNumber = space > at && Number.isSafeInteger(length);
    if (!isNumber || length <= space - at || at + length > bytes.length)
      throw corrupt(name, 'tar', 'a pax header that cannot be read');
    const record = new TextDecoder().decode(bytes.subarray(space + 1, at + length - 1));
    const equals = record.indexOf('=');
    const [key, value] = [record.slice(0, equals), record.slice(equals + 1)];
    if (/^GNU\.sparse\.(offset|numbytes)$/.test(key)) numbers.push(Number(value));
    else records.set(key, value);
    at += length;
  }
  return [records, numbers];
}

/** Old GNU format: four pieces in the header, and more in blocks behind it. */
async function oldMap(input: TarInput, header: Uint8Array, member: TarMember): Promise<TarMember> {
  const numbers: number[] = [];
  const take = (block: Uint8Array, at: number, count: number): void => {
    for (let entry = at; entry < at + count * 24; entry += 24) {
      if (block[entry] === 0) return;
      numbers.push(number(block, entry, 12), number(block, entry + 12, 12));
    }
  };
  take(header, 386, 4);
  for (let goesOn = header[482] !== 0, blocks = 1; goesOn; blocks++) {
    const block = await input.read(member.at, TAR_BLOCK);
    member.at += TAR_BLOCK;
    take(block, 0, 21);
    goesOn = block[504] !== 0;
    // However few of them it uses.
    mustBeFew(blocks * 21, input.name);
  }
  return sparse(member, number(header, 483, 12), numbers, member.at, input.name);
}

/** pax formats 0.0 and 0.1 (in the header) and 1.0 (in front of the data). */
async function paxMap(
  input: TarInput,
  pax: Map<string, string>,
  sparse00: readonly number[],
  member: TarMember,
): Promise<TarMember> {
  const size = Number(pax.get('GNU.sparse.realsize') ?? pax.get('GNU.sparse.size'));
  if (pax.get('GNU.sparse.major') === '1') {
    const { numbers, at } = await mapAt(input, member.at);
    return sparse(member, size, numbers, at, input.name);
  }
  const map = pax.get('GNU.sparse.map')?.split(',').map(Number) ?? sparse00;
  return map.length > 0 ? sparse(member, size, map, member.at, input.name) : member;
}

/**
 * Decimal numbers, a line each: how many pieces, and of each its offset and length; then up to the
 * next block.
 */
async function mapAt(input: TarInput, start: number): Promise<{ numbers: number[]; at: number }> {
  let text = '';
  let lines = 0;
  for (let at = start; ; at += TAR_BLOCK) {
    const block = charactersOf(await input.read(at, TAR_BLOCK));
    lines += block.split('\n').length - 1;
    text += block;
    const count = Number(/^(\d{1,7})\n/.exec(text)?.[1]);
    if (Number.isNaN(count))
      throw corrupt(input.name, 'tar', 'a map of a sparse file that cannot be read');
    mustBeFew(count, input.name);
    if (text.length > MAP_LINE_BYTES_MAX * (2 * count + 1) + TAR_BLOCK)
      throw corrupt(input.name, 'tar', 'a map of a sparse file that has no end');
    if (lines > 2 * count)
      return {
        numbers: text
          .split('\n')
          .slice(1, 1 + 2 * count)
          .map(Number),
        at: at + TAR_BLOCK,
      };
  }
}

function mustBeFew(pieces: number, name: string | undefined): void {
  if (pieces > PIECES_MAX)
    throw corrupt(name, 'tar', `a sparse file of more than ${PIECES_MAX} pieces`);
}

function sparse(
  member: TarMember,
  size: number,
  numbers: readonly number[],
  at: number,
  name: string | undefined,
): TarMember {
  const pieces: Piece[] = [];
  let place = at;
  let before = 0;
  for (let index = 0; index + 1 < numbers.length; index += 2) {
    const [offset, length] = [numbers[index], numbers[index + 1]];
    const isWhole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
    if (!(isWhole && offset >= before && length >= 0 && offset + length <= size))
      throw corrupt(name, 'tar', `the map of the sparse file '${member.name}' contradicts itself`);
    if (length > 0) pieces.push({ offset, length, at: place });
    place += length;
    before = offset + length;
  }
  if (!Number.isSafeInteger(size) || place > member.at + member.stored)
    throw corrupt(name, 'tar', `the map of the sparse file '${member.name}' contradicts itself`);
  return { ...member, size, pieces };
}
