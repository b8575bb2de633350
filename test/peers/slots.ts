/**
 * Where the guest of a process that is killed writes, and what: each slot once, so that what must
 * be there afterwards is known.
 */
import { makeContent } from '../fixtures/content.ts';

/** No multiple of a sector, so that slots lie over borders of every kind. */
const SLOT_BYTES = 50_001;
/** Neighbours in time are far apart on the disk. */
const STRIDE = 31;

export function slotCount(diskSize: number): number {
  // A number without a factor in common with the stride, so that each slot comes once.
  return Math.floor(Math.floor(diskSize / SLOT_BYTES) / STRIDE) * STRIDE - 1;
}

export function slotOffset(slot: number, diskSize: number): number {
  return ((slot * STRIDE) % slotCount(diskSize)) * SLOT_BYTES + 13;
}

export function slotContent(slot: number): Uint8Array {
  return makeContent('random', slot, 1_000 + (slot % 7) * 3_000);
}
