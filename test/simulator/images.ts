/**
 * The content of simulated images and requests: bytes from one pool of random ones, cut at random
 * places, with zeros between.
 */
import { makeContent, Random } from '../fixtures/content.ts';
import type { ImagePlan } from './plan.ts';
import { writeImage } from './writer.ts';

const POOL_BYTES = 16 << 20;
let pool: Uint8Array | undefined;

/** Random bytes, the same for the same place: not to be changed. */
export function poolBytes(random: Random, length: number): Uint8Array {
  pool ??= makeContent('random', 1, POOL_BYTES);
  const at = random.between(0, POOL_BYTES - length);
  return pool.subarray(at, at + length);
}

/** An image as planned. */
export function makeImage(
  plan: ImagePlan,
  random: Random,
  backing?: { name: string; format: string },
): Uint8Array {
  const content = new Uint8Array(plan.size);
  const piece = Math.max(512, Math.min(plan.size, 2 ** plan.clusterBits));
  for (let at = 0; at < plan.size; at += piece) {
    const length = Math.min(piece, plan.size - at);
    const kind = random.between(0, 5);
    if (kind === 0) continue;
    // Half of a cluster repeated compresses.
    const bytes = poolBytes(random, kind === 1 ? Math.ceil(length / 8) : length);
    for (let to = at; to < at + length; to += bytes.length)
      content.set(bytes.subarray(0, Math.min(bytes.length, at + length - to)), to);
  }
  if (plan.format === 'raw') return content;
  const clusters = Math.ceil(plan.size / 2 ** plan.clusterBits);
  const fills = Array.from(
    { length: clusters },
    () => plan.fills[random.between(0, plan.fills.length - 1)],
  );
  // Runs of the same kind, as real images have them.
  for (let i = 1; i < clusters; i++) if (random.between(0, 2) > 0) fills[i] = fills[i - 1];
  const seed = plan.odd.length ? random.next() : plan.size;
  return writeImage({ ...plan, content, fills, backing, seed });
}
