/** Where a file has holes, by lseek(2). */
import type { BlockSource } from '../api/block.ts';

/**
 * A source's `nextData`: `next` gives where data or a hole is at or behind an offset, undefined if
 * there is none (ENXIO), NaN if that cannot be told. Undefined where the file system does not tell.
 */
export function nextDataBy(
  next: (what: 'data' | 'hole', offset: number) => number | undefined,
): BlockSource['nextData'] {
  if (Number.isNaN(next('data', 0))) return undefined;
  return (offset) => {
    const start = next('data', offset);
    return start === undefined ? undefined : { start, end: next('hole', start) ?? NaN };
  };
}
