/** NBD_CMD_BLOCK_STATUS: which parts of a range are there, and in which image of the chain. */
import type { Extent } from '../../api/disk.ts';
import type { Descriptor } from '../../bases/nbd/messages.ts';
import * as messages from '../../bases/nbd/messages.ts';
import { AllocationFlag, Command, CommandFlag, NbdError } from '../../bases/nbd/protocol.ts';
import type { Export } from './export.ts';
import { ALLOCATION_DEPTH } from './handshake.ts';
import { DESCRIPTORS_MAX, EXTENTS_MAX } from './limits.ts';
import type { Task } from './task.ts';
import { mustBeInside, Refused } from './task.ts';

/** One pass over the map for all contexts. */
export async function blockStatus(task: Task): Promise<Uint8Array[]> {
  const { target, style, request, stop } = task;
  const { offset, length, contexts } = rangeOfStatus(task);
  if (style === 'simple' || contexts.length === 0)
    throw new Refused(NbdError.EINVAL, 'no metadata context was agreed on');
  if (length === 0) throw new Refused(NbdError.EINVAL, 'no bytes have no status');
  const most = request.flags & CommandFlag.reqOne ? 1 : DESCRIPTORS_MAX;
  const lists = await target.look(
    () => `map ${length} bytes at ${offset}`,
    () => descriptorsOf(target, offset, length, contexts, most),
    stop,
  );
  return contexts.map((context, index) =>
    messages.emitBlockStatus(request, style, context, lists[index], index === contexts.length - 1),
  );
}

function rangeOfStatus({ target, request, payload, contexts }: Task): {
  offset: number;
  length: number;
  contexts: readonly number[];
} {
  if (payload === undefined) return { offset: request.offset, length: request.length, contexts };
  const asked = messages.parseBlockStatusPayload(payload);
  const isSound =
    asked !== undefined &&
    new Set(asked.contexts).size === asked.contexts.length &&
    asked.contexts.every((context) => contexts.includes(context));
  if (!isSound)
    throw new Refused(NbdError.EINVAL, 'the contexts asked for are not those agreed on');
  mustBeInside(target, Command.blockStatus, request.offset, asked.length);
  return { offset: request.offset, length: asked.length, contexts: asked.contexts };
}

async function descriptorsOf(
  { disk }: Export,
  offset: number,
  length: number,
  contexts: readonly number[],
  most: number,
): Promise<Descriptor[][]> {
  const lists: Descriptor[][] = contexts.map(() => []);
  const isOpen: boolean[] = contexts.map(() => true);
  let looked = 0;
  for await (const extent of disk.map(offset, length)) {
    contexts.forEach((context, index) => {
      const list = lists[index];
      const status = context === ALLOCATION_DEPTH ? depthOf(extent) : allocationOf(extent);
      const last = list.at(-1);
      if (!isOpen[index]) return;
      if (last?.status === status) last.length += extent.length;
      else if (list.length < most) list.push({ length: extent.length, status });
      else isOpen[index] = false;
    });
    if (!isOpen.includes(true) || ++looked === EXTENTS_MAX) break;
  }
  return lists;
}

/** `base:allocation`. */
function allocationOf({ state }: Extent): number {
  return state === 'zero' || state === 'absent' ? AllocationFlag.hole | AllocationFlag.zero : 0;
}

/**
 * `qemu:allocation-depth`: 0 where no image of the chain has it, 1 in the overlay, 2 in its base,
 * and so on.
 */
function depthOf({ state, depth }: Extent): number {
  return state === 'absent' ? 0 : depth + 1;
}
