/** A disk as a few lines of text: the darker a place, the more of it a profile has. */
import type { ProfileRange } from './format.ts';

const COLUMNS = 64;
const ROWS = 4;
const SHADES = ' ░▒▓█';

export function pictureOf(ranges: readonly ProfileRange[], diskSize: number): string[] {
  const cells = new Float64Array(COLUMNS * ROWS);
  const cellBytes = diskSize / cells.length;
  for (const { offset, length } of ranges) {
    const end = Math.min(offset + length, diskSize);
    for (let cell = Math.floor(offset / cellBytes); cell < cells.length; cell++) {
      const from = Math.max(offset, cell * cellBytes);
      const to = Math.min(end, (cell + 1) * cellBytes);
      if (from >= to) break;
      cells[cell] += (to - from) / cellBytes;
    }
  }
  return Array.from({ length: ROWS }, (_, row) =>
    Array.from(cells.subarray(row * COLUMNS, (row + 1) * COLUMNS), shadeOf).join(''),
  );
}

/** Whatever is read of a place shows. */
function shadeOf(share: number): string {
  if (share === 0) return SHADES[0];
  return SHADES[Math.min(1 + Math.floor(share * 4), SHADES.length - 1)];
}
