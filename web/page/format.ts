/** Quantities as people read them. */

const UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
const DAY_S = 86_400;

export function bytes(count: number): string {
  const power = count < 1024 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(count) / 10));
  const value = count / 1024 ** power;
  return `${power === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[power]}`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < DAY_S)
    return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.round(seconds / DAY_S)} days`;
}

/** Never 100 % while something is missing. */
export function percent(part: number): string {
  return `${part < 1 ? Math.min(99.9, Math.floor(part * 1000) / 10) : 100} %`;
}

export function ago(time: number): string {
  const seconds = (Date.now() - time) / 1000;
  if (seconds < 90) return 'just now';
  const [value, unit] =
    seconds < 5400
      ? ([seconds / 60, 'minute'] as const)
      : seconds < DAY_S
        ? ([seconds / 3600, 'hour'] as const)
        : ([seconds / DAY_S, 'day'] as const);
  return new Intl.RelativeTimeFormat('en', { numeric: 'auto' }).format(-Math.round(value), unit);
}
