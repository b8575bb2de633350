/** The images of the chain that a job is about: those that leave it, and the new base. */
import { R_HEADER_FULL, R_NOT_A_BASE } from '../../../engine/protocol.ts';
import type { BlockSource } from '../../api/block.ts';
import { MillraceError } from '../../api/errors.ts';
import type { StreamOptions } from '../../api/job.ts';
import type { Engine } from '../driver/engine.ts';
import { reasonText } from '../driver/reasons.ts';

/**
 * The depth of the image that becomes the new base; `recordBase` hands over what the header will
 * say of it.
 */
export function newBase(
  engine: Engine,
  base: string | number,
  keepBase: boolean,
  recordBase: (image: number) => void,
): number {
  const names = [];
  let depth = 1;
  let image = engine.exports.imageAtDepth(depth);
  while (image >= 0 && !isNamed(engine, image, depth, base)) {
    names.push(`'${engine.name(image)}'`);
    image = engine.exports.imageAtDepth(++depth);
  }
  if (image < 0)
    throw new MillraceError(
      'EINVAL',
      `cannot stream down to '${base}': ${reasonText(R_NOT_A_BASE)}, which has ${names.join(', ') || 'none'}`,
    );
  recordBase(image);
  if (!keepBase && depth > 1 && !engine.exports.backingHasRoom())
    throw new MillraceError(
      'EUNSUPPORTED',
      `cannot stream down to '${base}': ${reasonText(R_HEADER_FULL)}`,
    );
  return depth;
}

/** The images that leave the chain when the job is done, as far as they have to be proven first. */
export function unprovenBases(
  engine: Engine,
  { base, keepBase = false }: StreamOptions,
): BlockSource[] {
  const leaving: BlockSource[] = [];
  const { exports } = engine;
  for (let depth = 1; !keepBase && exports.imageAtDepth(depth) >= 0; depth++) {
    const image = exports.imageAtDepth(depth);
    if (isNamed(engine, image, depth, base)) break;
    const source = engine.file(image);
    if (source?.verify !== undefined) leaving.push(source);
  }
  return leaving;
}

/** Closes the images that have left the chain. */
export async function closeDetached(engine: Engine): Promise<void> {
  const kept = new Set<number>();
  for (let depth = 0; engine.exports.imageAtDepth(depth) >= 0; depth++)
    kept.add(engine.exports.imageAtDepth(depth));
  for (let image = 1; engine.isAttached(image); image++) {
    // The base is not needed any more: that it cannot be closed properly harms nothing.
    if (!kept.has(image)) await Promise.resolve(engine.detach(image)?.close()).catch(() => {});
  }
}

function isNamed(
  engine: Engine,
  image: number,
  depth: number,
  base: string | number | undefined,
): boolean {
  return depth === base || engine.name(image) === base;
}
