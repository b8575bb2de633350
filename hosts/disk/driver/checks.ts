/** What the engine reports of a check, in the words of the public calls. */
import {
  CHECK_ALLOCATED,
  CHECK_COMPRESSED,
  CHECK_CORRUPTIONS,
  CHECK_CORRUPTIONS_FIXED,
  CHECK_END,
  CHECK_FRAGMENTED,
  CHECK_LEAKS,
  CHECK_LEAKS_FIXED,
  CHECK_NUMBERS,
  KIND_CHECK,
  REPAIR_ALL,
  REPAIR_LEAKS,
  REPAIR_NOTHING,
} from '../../../engine/protocol.ts';
import type { CheckOptions, CheckReport } from '../../api/check.ts';
import { MillraceError } from '../../api/errors.ts';
import type { Engine } from './engine.ts';

/** How often it is told how far a check is; what is done sooner tells nothing. */
const TELL_MS = 200;
const REPAIRS = { leaks: REPAIR_LEAKS, all: REPAIR_ALL } as const;

/** Checks image 0 of an engine, which shows `size` bytes, and repairs it if that is asked for. */
export async function checkWith(
  engine: Engine,
  size: number,
  { repair, onProgress }: Pick<CheckOptions, 'repair' | 'onProgress'>,
): Promise<CheckReport> {
  if (repair !== undefined && !Object.hasOwn(REPAIRS, repair))
    throw new MillraceError('EINVAL', `cannot repair '${repair}': it is leaks or all`);
  const numbers = new Uint8Array(CHECK_NUMBERS * 8);
  const stopTelling = tellProgress(engine, size, onProgress);
  const mayRepair = repair ? REPAIRS[repair] : REPAIR_NOTHING;
  await engine.request(KIND_CHECK, 0, 0, mayRepair, { into: numbers }).finally(stopTelling);
  const view = new DataView(numbers.buffer);
  const number = (index: number) => view.getFloat64(index * 8, true);
  return {
    corruptions: number(CHECK_CORRUPTIONS),
    leaks: number(CHECK_LEAKS),
    corruptionsFixed: number(CHECK_CORRUPTIONS_FIXED),
    leaksFixed: number(CHECK_LEAKS_FIXED),
    allocatedClusters: number(CHECK_ALLOCATED),
    totalClusters: Math.ceil(size / engine.exports.clusterSize()),
    compressedClusters: number(CHECK_COMPRESSED),
    fragmentedClusters: number(CHECK_FRAGMENTED),
    imageEndOffset: number(CHECK_END),
  };
}

/** Tells now and then how far the check is; returns what ends that. */
function tellProgress(
  engine: Engine,
  size: number,
  onProgress: CheckOptions['onProgress'],
): () => void {
  if (onProgress === undefined) return () => {};
  const tell = (): void => {
    onProgress(Math.floor(engine.exports.checked() * size), size);
    stop = engine.clock.after(TELL_MS, tell);
  };
  let stop = engine.clock.after(TELL_MS, tell);
  return () => stop();
}
