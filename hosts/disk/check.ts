/**
 * Checks of an image: of its metadata, which is the engine's work, and of what can be read of it. A
 * stream that went into an overlay as it was has never been inflated.
 */

import { KIND_READ } from '../../engine/protocol.ts';
import type { CheckOptions, CheckReport } from '../api/check.ts';
import { MillraceError } from '../api/errors.ts';
import { checkWith } from './driver/checks.ts';
import type { Engine } from './driver/engine.ts';
import { extentsOf } from './driver/extents.ts';
import { inPieces } from './pieces.ts';

/** Of the places found, so many are told. */
const DAMAGES_TOLD_MAX = 16;

/** Checks image 0 of an engine, which shows `size` bytes. */
export async function check(
  engine: Engine,
  size: number,
  { repair, data = false, onProgress }: Pick<CheckOptions, 'repair' | 'data' | 'onProgress'>,
): Promise<CheckReport> {
  if (typeof data !== 'boolean')
    throw new MillraceError('EINVAL', 'cannot check: data is true or false');
  const report = await checkWith(engine, size, {
    repair,
    onProgress: data ? undefined : onProgress,
  });
  // What corrupt tables lead to says nothing.
  if (!data || report.corruptions) return report;
  return { ...report, ...(await checkData(engine, size, onProgress)) };
}

/** Reads image 0 of an engine, which shows `size` bytes, and tells where that does not work. */
async function checkData(
  engine: Engine,
  size: number,
  onProgress: CheckOptions['onProgress'],
): Promise<Required<Pick<CheckReport, 'damagedBytes' | 'damages'>>> {
  const found = { damagedBytes: 0, damages: [] as { offset: number; message: string }[] };
  const sizes = { most: engine.exports.requestBytesMax(), cluster: engine.exports.clusterSize() };
  let read = 0;
  const look = async (at: number, length: number): Promise<void> => {
    try {
      await engine.request(KIND_READ, at, length, 0, { into: new Uint8Array(length) });
    } catch (error) {
      if (!(error instanceof MillraceError) || !isDamage(error)) throw error;
      const within = sizes.cluster - (at % sizes.cluster);
      if (length > within) {
        for (let to = at + within, from = at; from < at + length; from = to, to += sizes.cluster)
          await look(from, Math.min(to, at + length) - from);
        return;
      }
      found.damagedBytes += length;
      found.damages.push({ offset: at, message: error.message });
    }
  };
  for await (const { offset, length, state } of extentsOf(engine, 0, size, 1)) {
    if (state !== 'data' && state !== 'compressed') continue;
    await inPieces(sizes, offset, length, async (at, bytes) => {
      await look(at, bytes);
      read = Math.max(read, at + bytes);
      onProgress?.(read, size);
    });
  }
  found.damages.sort((one, other) => one.offset - other.offset);
  found.damages.splice(DAMAGES_TOLD_MAX);
  return found;
}

/** Whether it is the data that is at fault. */
function isDamage({ code }: MillraceError): boolean {
  return code === 'ECORRUPT' || code === 'EIO';
}
