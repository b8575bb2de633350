/** What each request does to the disk ("Request types"), and how it is answered. */
import type { Extent } from '../../api/disk.ts';
import type { ErrorCode } from '../../api/errors.ts';
import { MillraceError, messageOf } from '../../api/errors.ts';
import type { Descriptor, Request } from '../../bases/nbd/messages.ts';
import * as messages from '../../bases/nbd/messages.ts';
import type { HeaderStyle } from '../../bases/nbd/protocol.ts';
import { AllocationFlag, Command, CommandFlag, NbdError } from '../../bases/nbd/protocol.ts';
import type { Export } from './export.ts';
import { codeOf } from './export.ts';
import type { Agreement } from './handshake.ts';
import { ALLOCATION_DEPTH } from './handshake.ts';
import {
  DESCRIPTORS_MAX,
  EXTENTS_MAX,
  HOLE_READ_BYTES_MIN,
  PAYLOAD_BYTES_MAX,
  PIECE_BYTES,
  READ_CHUNKS_MAX,
} from './limits.ts';
import type { Stop } from './stop.ts';

/** One request, with all that carrying it out needs. */
interface Task {
  target: Export;
  style: HeaderStyle;
  contexts: readonly number[];
  request: Request;
  payload: Uint8Array | undefined;
  stop: Stop;
  /** An array for a part of the reply. */
  room(length: number): Uint8Array;
}

/** A request that is refused without having touched the disk. */
class Refused extends Error {
  readonly error: number;

  constructor(error: number, message: string) {
    super(message);
    this.error = error;
  }
}

/** "Error values" for ours. */
const ERRORS: Readonly<Partial<Record<ErrorCode, number>>> = {
  EINVAL: NbdError.EINVAL,
  ENOSPC: NbdError.ENOSPC,
  EROFS: NbdError.EPERM,
  EACCES: NbdError.EIO,
  ECLOSED: NbdError.ESHUTDOWN,
};

const ZEROES = new Uint8Array(PIECE_BYTES);

/**
 * "Command flags" beside FUA, which goes with each of them, and the flag that tells of a payload.
 */
const FLAGS: ReadonlyMap<number, number> = new Map<number, number>([
  [Command.read, CommandFlag.df],
  [Command.write, 0],
  [Command.flush, 0],
  [Command.trim, 0],
  [Command.cache, 0],
  [Command.writeZeroes, CommandFlag.noHole | CommandFlag.fastZero],
  [Command.blockStatus, CommandFlag.reqOne],
]);

const CHANGES: ReadonlySet<number> = new Set([Command.write, Command.trim, Command.writeZeroes]);

const ACTS: ReadonlyMap<number, (task: Task) => Promise<Uint8Array[]>> = new Map([
  [Command.read, read],
  [Command.write, write],
  [Command.flush, flush],
  [Command.trim, trim],
  [Command.cache, cache],
  [Command.writeZeroes, writeZeroes],
  [Command.blockStatus, blockStatus],
]);

/** Carries out a request; the parts of its reply, of success or not. It never throws. */
export async function answer(
  { target, style, contexts }: Agreement,
  request: Request,
  payload: Uint8Array | undefined,
  { stop, room }: Pick<Task, 'stop' | 'room'>,
): Promise<Uint8Array[]> {
  try {
    const act = checkedAct(target, style, request);
    return await act({ target, style, contexts, request, payload, stop, room });
  } catch (error) {
    if (error instanceof Refused) return refusal(request, style, error.error, error.message);
    const message = messageOf(error);
    const code = codeOf(error);
    const value = code === undefined ? undefined : ERRORS[code];
    return refusal(request, style, value ?? NbdError.EIO, message);
  }
}

/** An error's reply; with structured replies, it carries the message. */
export function refusal(
  request: Request,
  style: HeaderStyle,
  error: number,
  message: string,
): Uint8Array[] {
  return style === 'simple'
    ? [messages.emitSimpleReply(request, error)]
    : [messages.emitError(request, style, error, message)];
}

function success({ request, style }: Task): Uint8Array[] {
  return style === 'extended'
    ? [messages.emitNone(request, style)]
    : [messages.emitSimpleReply(request, NbdError.none)];
}

/** What does the request, if it is one that can be. */
function checkedAct(
  target: Export,
  style: HeaderStyle,
  request: Request,
): (task: Task) => Promise<Uint8Array[]> {
  const { type, flags, offset, length } = request;
  const act = ACTS.get(type);
  if (act === undefined) throw new Refused(NbdError.EINVAL, `command ${type} is not known`);
  if (CHANGES.has(type) && target.readOnly)
    throw new Refused(NbdError.EPERM, `'${target.name}' is served read-only`);
  if ((flags & ~allowedFlags(type, style)) !== 0 || lacksPayload(request, style))
    throw new Refused(NbdError.EINVAL, `command ${type} does not go with the flags ${flags}`);
  // A request with a payload of its own says there which range it means.
  if (type === Command.blockStatus && flags & CommandFlag.payloadLength) return act;
  if (type === Command.flush) {
    if (offset !== 0 || length !== 0)
      throw new Refused(NbdError.EINVAL, 'a flush has no offset and no length');
  } else mustBeInside(target, type, offset, length);
  return act;
}

function allowedFlags(type: number, style: HeaderStyle): number {
  let allowed = CommandFlag.fua | (FLAGS.get(type) ?? 0);
  if (style === 'simple') allowed &= ~CommandFlag.df;
  const takesPayload = type === Command.write || type === Command.blockStatus;
  if (style === 'extended' && takesPayload) allowed |= CommandFlag.payloadLength;
  return allowed;
}

/** With extended headers, a write says that its data follows. */
function lacksPayload({ type, flags }: Request, style: HeaderStyle): boolean {
  return (
    style === 'extended' && type === Command.write && (flags & CommandFlag.payloadLength) === 0
  );
}

function mustBeInside(target: Export, type: number, offset: number, length: number): void {
  if (offset <= target.disk.size && length <= target.disk.size - offset) return;
  const grows = type === Command.write || type === Command.writeZeroes;
  throw new Refused(
    grows ? NbdError.ENOSPC : NbdError.EINVAL,
    `${length} bytes at ${offset} are not inside the disk of ${target.disk.size} bytes`,
  );
}

/** NBD_CMD_READ. All is read before the reply begins, so that an error needs no broken reply. */
async function read(task: Task): Promise<Uint8Array[]> {
  const { target, style, request, stop } = task;
  const { offset, length } = request;
  if (length > PAYLOAD_BYTES_MAX)
    throw new Refused(
      style === 'simple' ? NbdError.EINVAL : NbdError.EOVERFLOW,
      `${length} bytes at once are too many to read: ${PAYLOAD_BYTES_MAX} at most`,
    );
  if (length === 0) return success0(task);
  const whole =
    style === 'simple' || request.flags & CommandFlag.df || length < HOLE_READ_BYTES_MIN;
  const isZero = false;
  return target.look(
    () => `read ${length} bytes at ${offset}`,
    () =>
      whole
        ? contentOf(task, { offset, length, isZero }, true)
        : contentOfRuns(task, offset, length),
    stop,
  );
}

/** A read of nothing has no content chunk. */
function success0(task: Task): Uint8Array[] {
  return task.style === 'structured'
    ? [messages.emitNone(task.request, task.style)]
    : success(task);
}

/** A run of a read, that is zeros all over or is not known to be. */
interface Run {
  offset: number;
  length: number;
  isZero: boolean;
}

/** What of a range needs not be sent; where there are too many runs, all of it is. */
async function runsOf({ disk }: Export, offset: number, length: number): Promise<Run[]> {
  const runs: Run[] = [];
  for await (const extent of disk.map(offset, length)) {
    const isZero = extent.state === 'zero' || extent.state === 'absent';
    const last = runs.at(-1);
    if (last?.isZero === isZero) last.length += extent.length;
    else runs.push({ offset: extent.offset, length: extent.length, isZero });
    if (runs.length > READ_CHUNKS_MAX) return [{ offset, length, isZero: false }];
  }
  return runs;
}

async function contentOfRuns(task: Task, offset: number, length: number): Promise<Uint8Array[]> {
  const runs = await runsOf(task.target, offset, length);
  const last = runs.length - 1;
  return (await Promise.all(runs.map((run, index) => contentOf(task, run, index === last)))).flat();
}

/** The reply, or a chunk of it, its data read into its place. */
async function contentOf(
  { target, style, request, room }: Task,
  { offset, length, isZero }: Run,
  done: boolean,
): Promise<Uint8Array[]> {
  if (isZero) return [messages.emitOffsetHole(request, style, offset, length, done)];
  const header =
    style === 'simple'
      ? messages.emitSimpleReply(request, NbdError.none)
      : messages.emitOffsetData(request, style, offset, length, done);
  const reply = room(header.length + length);
  reply.set(header);
  await target.readInto(offset, reply.subarray(header.length));
  return [reply];
}

/** Does what changes the disk; with NBD_CMD_FLAG_FUA, it is safe before the reply. */
async function changed(task: Task, what: string, work: () => Promise<void>): Promise<Uint8Array[]> {
  const { target, request, stop } = task;
  const { offset, length, flags } = request;
  const action = (): string => `${what} ${length} bytes at ${offset}`;
  if (length > 0) await target.change(action, offset, length, work, stop);
  if (flags & CommandFlag.fua) await target.disk.flush();
  return success(task);
}

/** NBD_CMD_WRITE. */
function write(task: Task): Promise<Uint8Array[]> {
  const { target, request, payload } = task;
  return changed(task, 'write', () => target.disk.write(request.offset, payload!));
}

/**
 * NBD_CMD_FLUSH: all connections' writes that were answered before. A flush that failed is not
 * tried again: what it lost is lost.
 */
async function flush(task: Task): Promise<Uint8Array[]> {
  await task.target.disk.flush();
  return success(task);
}

/** NBD_CMD_TRIM: whole clusters; what is left of others stays. */
function trim(task: Task): Promise<Uint8Array[]> {
  const { target, request } = task;
  return changed(task, 'discard', () => target.disk.discard(request.offset, request.length));
}

/**
 * NBD_CMD_WRITE_ZEROES. Whole clusters are zeroed by their entries in the tables, and are fast;
 * parts of clusters and zeros that must take space (NBD_CMD_FLAG_NO_HOLE) are written.
 */
function writeZeroes(task: Task): Promise<Uint8Array[]> {
  const { target, request } = task;
  const { offset, length, flags } = request;
  const takesSpace = (flags & CommandFlag.noHole) !== 0;
  if (flags & CommandFlag.fastZero && (takesSpace || !isWhole(target, offset, length)))
    throw new Refused(NbdError.ENOTSUP, 'zeros that must be written are not fast');
  return changed(task, 'write zeroes over', () =>
    takesSpace ? provision(task) : target.disk.writeZeroes(offset, length),
  );
}

/** Whether a range begins and ends where clusters do. */
function isWhole({ disk }: Export, offset: number, length: number): boolean {
  const end = offset + length;
  return offset % disk.clusterSize === 0 && (end % disk.clusterSize === 0 || end === disk.size);
}

async function provision({ target, request, stop }: Task): Promise<void> {
  const end = request.offset + request.length;
  for (let at = request.offset; at < end; at += PIECE_BYTES) {
    mustGoOn(stop);
    await target.disk.write(at, ZEROES.subarray(0, Math.min(PIECE_BYTES, end - at)));
  }
}

function mustGoOn(stop: Stop): void {
  if (stop.isGiven) throw new MillraceError('ECLOSED', 'the server is closing');
}

/** NBD_CMD_CACHE: populates the range, by a job where none is running. */
async function cache(task: Task): Promise<Uint8Array[]> {
  const { target, request, stop } = task;
  const { offset, length } = request;
  if (length > 0)
    await target.look(
      () => `populate ${length} bytes at ${offset}`,
      () => populate(target, offset, length, stop),
      stop,
    );
  return success(task);
}

async function populate(
  { disk, readOnly }: Export,
  offset: number,
  length: number,
  stop: Stop,
): Promise<void> {
  if (!readOnly) {
    try {
      await disk.stream({ offset, length, signal: stop.signal });
      return;
    } catch (error) {
      if (codeOf(error) !== 'EBUSY') throw error;
    }
  }
  // A disk has one job at a time: beside it, what is read is kept.
  for (let at = offset; at < offset + length; at += PIECE_BYTES) {
    mustGoOn(stop);
    await disk.read(at, Math.min(PIECE_BYTES, offset + length - at));
  }
}

/** NBD_CMD_BLOCK_STATUS: one pass over the map for all contexts. */
async function blockStatus(task: Task): Promise<Uint8Array[]> {
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
