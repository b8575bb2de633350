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
 * The word that an overlay records for its base's format. For a raw disk in a container it is the
 * container's, which QEMU does not know and refuses: by `raw` it would take the container's bytes
 * for the disk.
 */
export function recordedFormat(format: ImageFormat, container: string | undefined): string {
  return format === 'raw' && container !== undefined ? container.split('+')[0] : format;
}

/** Whether a recorded word for a format says that the base is a raw disk in a container. */
export function isContainerWord(word: string): boolean {
  return CONTAINERS.includes(word);
}

/** The format that a recorded word stands for; undefined for none, and for an unknown one. */
export function formatOfWord(word: string): ImageFormat | undefined {
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
