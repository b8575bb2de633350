/** The formats of images: their names, and the engine's numbers of them. */
import {
  FORMAT_PARALLELS,
  FORMAT_PROBE,
  FORMAT_QCOW2,
  FORMAT_QED,
  FORMAT_RAW,
  FORMAT_VDI,
  FORMAT_VHDX,
  FORMAT_VMDK,
  FORMAT_VPC,
} from '../../../engine/protocol.ts';
import type { ImageFormat } from '../../api/image.ts';

const NUMBERS: Readonly<Record<ImageFormat, number>> = {
  raw: FORMAT_RAW,
  qcow2: FORMAT_QCOW2,
  vmdk: FORMAT_VMDK,
  vpc: FORMAT_VPC,
  vhdx: FORMAT_VHDX,
  vdi: FORMAT_VDI,
  qed: FORMAT_QED,
  parallels: FORMAT_PARALLELS,
};
const NAMES = new Map(Object.entries(NUMBERS).map(([name, n]) => [n, name as ImageFormat]));

/** As a list for messages and for the command line's choices. */
export const FORMAT_NAMES = Object.keys(NUMBERS) as ImageFormat[];

/** What a container can be, as overlays record it: see `recordedFormat`. */
const CONTAINERS: readonly string[] = ['xz', 'gzip', 'zstd', 'bzip2', 'zip', 'tar'];

/**
 * `parallels` has more letters than the header has room for: without a word, QEMU tells such a base
 * by its first bytes. In a container those are not the image's, and this stands for it.
 */
const PARALLELS_WORD = 'parallel';

/**
 * The word that an overlay records for its base's format. For what is in a container it is one that
 * QEMU refuses, as it does not know it, or as the container's bytes are not of that format: by
 * `raw`, or none, it would take them for the disk. Of a raw disk it is the container's.
 */
export function recordedFormat(format: ImageFormat, container: string | undefined): string {
  if (container === undefined) return format;
  if (format === 'parallels') return PARALLELS_WORD;
  return format === 'raw' ? container.split('+')[0] : format;
}

/** Whether a recorded word for a format says that the base is in a container. */
export function isContainerWord(word: string): boolean {
  return CONTAINERS.includes(word) || word === PARALLELS_WORD;
}

/** The format that a recorded word stands for; undefined for none, and for an unknown one. */
export function formatOfWord(word: string): ImageFormat | undefined {
  if (word === PARALLELS_WORD) return 'parallels';
  if (isContainerWord(word)) return 'raw';
  return isFormat(word) ? word : undefined;
}

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
