/**
 * Sizes as `qemu-img` reads and writes them: powers of 1024, fractions, three significant digits.
 */

const UNITS = ['', 'K', 'M', 'G', 'T', 'P', 'E'];

/**
 * Bytes of a size such as `512`, `64K`, `1.5G` or `2t`: a number, a fraction if it likes, and a
 * unit (none and `B` are bytes). A part of a byte is dropped. Undefined for what is no size, or
 * above 2^53 - 1.
 */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d*)?|\.\d+)([bkmgtpe]?)$/i.exec(text);
  if (match === null) return undefined;
  const unit = match[2].toUpperCase().replace('B', '');
  // A part of a byte has no meaning where bytes were asked for.
  if (unit === '' && match[1].includes('.')) return undefined;
  const bytes = Math.trunc(Number(match[1]) * 1024 ** UNITS.indexOf(unit));
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** `1.5 GiB`: the largest unit of which there is about one or more. */
export function formatSize(bytes: number): string {
  let unit = 0;
  // A number of a thousand would take a fourth digit.
  while (unit < UNITS.length - 1 && bytes / 1024 ** unit >= 1000) unit++;
  return `${Number((bytes / 1024 ** unit).toPrecision(3))} ${UNITS[unit]}${unit ? 'i' : ''}B`;
}

/** `1.5 GiB (1610612736 bytes)`. */
export function formatExactly(bytes: number): string {
  return `${formatSize(bytes)} (${bytes} bytes)`;
}

/** How long something took: `0.34 s`, `12 s`, and from a minute on as formatDuration. */
export function formatElapsed(seconds: number): string {
  return seconds < 60 ? `${Number(seconds.toPrecision(2))} s` : formatDuration(seconds);
}

/** `0:07`, `12:34`, `1:02:03`. */
export function formatDuration(seconds: number): string {
  const whole = Math.ceil(seconds);
  const [hours, minutes, rest] = [
    Math.floor(whole / 3600),
    Math.floor(whole / 60) % 60,
    whole % 60,
  ];
  const padded = (value: number): string => String(value).padStart(2, '0');
  return hours ? `${hours}:${padded(minutes)}:${padded(rest)}` : `${minutes}:${padded(rest)}`;
}
