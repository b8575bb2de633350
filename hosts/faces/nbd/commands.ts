/** What each request does to the disk ("Request types"), and how it is answered. */
import type { ErrorCode } from '../../api/errors.ts';
import { messageOf } from '../../api/errors.ts';
import type { Request } from '../../bases/nbd/messages.ts';
import * as messages from '../../bases/nbd/messages.ts';
import type { HeaderStyle } from '../../bases/nbd/protocol.ts';
import { Command, CommandFlag, NbdError } from '../../bases/nbd/protocol.ts';
import { blockStatus } from './block-status.ts';
import type { Export } from './export.ts';
import { codeOf } from './export.ts';
import type { Agreement } from './handshake.ts';
import { PIECE_BYTES } from './limits.ts';
import { read } from './reading.ts';
import type { Stop } from './stop.ts';
import type { Task } from './task.ts';
import { mustBeInside, mustGoOn, Refused, success } from './task.ts';

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
