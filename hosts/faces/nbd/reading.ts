/** NBD_CMD_READ: what is sent of a range, and what is only said to be zeros. */
import * as messages from '../../bases/nbd/messages.ts';
import { CommandFlag, NbdError } from '../../bases/nbd/protocol.ts';
import type { Export } from './export.ts';
import { HOLE_READ_BYTES_MIN, PAYLOAD_BYTES_MAX, READ_CHUNKS_MAX } from './limits.ts';
import type { Task } from './task.ts';
import { Refused, success } from './task.ts';

/** All is read before the reply begins, so that an error needs no broken reply. */
export async function read(task: Task): Promise<Uint8Array[]> {
  const { target, style, request, stop } = task;
  const { offset, length } = request;
  if (length > PAYLOAD_BYTES_MAX)
    throw new Refused(
      style === 'simple' ? NbdError.EINVAL : NbdError.EOVERFLOW,
      `${length} bytes at once are too many to read: ${PAYLOAD_BYTES_MAX} at most`,
    );
  if (length === 0) return emptyRead(task);
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
function emptyRead(task: Task): Uint8Array[] {
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
