/** The formats of images: their names, and the engine's numbers of them. */
import { FORMAT_PROBE, FORMAT_QCOW2, FORMAT_RAW } from '../../../engine/protocol.ts';
import type { ImageFormat } from '../../api/disk.ts';

const NUMBERS: Readonly<Record<ImageFormat, number>> = { raw: FORMAT_RAW, qcow2: FORMAT_QCOW2 };
const NAMES = new Map(Object.entries(NUMBERS).map(([name, n]) => [n, name as ImageFormat]));

export function isFormat(name: string): name is ImageFormat {
  return Object.hasOwn(NUMBERS, name);
}

/** As the engine has it; without a name, it is to be told by the first bytes. */
export function formatNumber(name: ImageFormat | undefined): number {
  return name === undefined ? FORMAT_PROBE : NUMBERS[name];
}

export function formatName(number: number): ImageFormat | undefined {
  return NAMES.get(number);
}
