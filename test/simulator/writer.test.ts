/**
 * The writer of images: whatever it makes of oddities is a valid image, by the simulator's own
 * checker and by QEMU's.
 */
import { expect, it } from 'vitest';
import { Random } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { checkImage } from './checker.ts';
import { makeImage } from './images.ts';
import type { ImagePlan } from './plan.ts';
import { planOf } from './plan.ts';
import { QemuSample } from './qemu.ts';

const SEEDS = 400;
const QEMU_ONE_IN = 10;

/**
 * The overlays of plans that are not made by the engine and have oddities, except refcounts that
 * are wrong.
 */
function* oddOverlays(): Generator<[seed: number, plan: ImagePlan, file: Uint8Array]> {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { overlay } = planOf(seed);
    if (overlay.odd.length === 0 || overlay.odd.includes('dirty')) continue;
    yield [seed, overlay, makeImage(overlay, new Random(seed), { name: 'base-1', format: 'raw' })];
  }
}

it('odd images are valid', () => {
  for (const [seed, { odd }, file] of oddOverlays())
    expect(checkImage(file).corruptions, `seed ${seed}: ${odd}`).toEqual([]);
});

describeWithPeer(['qemu-img'], 'odd images beside QEMU', () => {
  it('are valid', () => {
    const qemu = new QemuSample(QEMU_ONE_IN);
    for (const [, , file] of oddOverlays()) qemu.look(file, false);
    qemu.end();
    expect(qemu.checked).toBeGreaterThan(5);
  }, 60_000);
});
