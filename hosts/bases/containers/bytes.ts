/** What the readers of all containers do with bytes. */
import type { BlockSource, ReadHint } from '../../api/block.ts';
import { codeOf, MillraceError } from '../../api/errors.ts';

/** Reads `length` bytes at `offset`, as many of them as there are. */
export async function bytesAt(
  source: BlockSource,
  offset: number,
  length: number,
  hint?: ReadHint,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(Math.max(0, Math.min(length, source.size - offset)));
  if (bytes.length === 0) return bytes;
  try {
    await source.read(offset, bytes, hint);
  } catch (error) {
    throw asOurs(error, source, offset);
  }
  return bytes;
}

/** A source of a caller's own may throw anything. */
function asOurs(error: unknown, { name = 'the base' }: BlockSource, offset: number): MillraceError {
  if (error instanceof MillraceError) return error;
  const { message } = error as { message?: unknown };
  const said = typeof message === 'string' ? message : String(error);
  return new MillraceError(codeOf(error), `cannot open ${name}: ${said}`, { cause: error, offset });
}

/** Each byte as the character of its number. */
export function charactersOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
}

/** Whether `bytes` has these characters at a place. */
export function hasAt(bytes: Uint8Array, at: number, characters: string): boolean {
  return charactersOf(bytes.subarray(at, at + characters.length)) === characters;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * A number of 64 bits, lowest byte first. @throws RangeError above 2^53 - 1, as a view at its end.
 */
export function u64(view: DataView, at: number): number {
  const value = view.getBigUint64(at, true);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new RangeError('a number above 2^53 - 1');
  return Number(value);
}

/** A container that contradicts itself or its checksums. */
export function corrupt(
  name: string | undefined,
  format: string,
  what: string,
  cause?: unknown,
): MillraceError {
  return new MillraceError('ECORRUPT', `${name ?? 'the base'}: damaged ${format}: ${what}`, {
    cause,
  });
}

/** Something of a container's format that is not read. */
export function unsupported(name: string | undefined, format: string, what: string): MillraceError {
  return new MillraceError('EUNSUPPORTED', `${name ?? 'the base'}: ${format} ${what}`);
}
