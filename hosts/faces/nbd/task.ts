/** One request of a client, and what all commands check and answer alike. */
import { MillraceError } from '../../api/errors.ts';
import type { Request } from '../../bases/nbd/messages.ts';
import * as messages from '../../bases/nbd/messages.ts';
import type { HeaderStyle } from '../../bases/nbd/protocol.ts';
import { Command, NbdError } from '../../bases/nbd/protocol.ts';
import type { Export } from './export.ts';
import type { Stop } from './stop.ts';

/** One request, with all that carrying it out needs. */
export interface Task {
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
export class Refused extends Error {
  readonly error: number;

  constructor(error: number, message: string) {
    super(message);
    this.error = error;
  }
}

/** The reply to what went well, and has no data. */
export function success({ request, style }: Task): Uint8Array[] {
  return style === 'extended'
    ? [messages.emitNone(request, style)]
    : [messages.emitSimpleReply(request, NbdError.none)];
}

export function mustBeInside(target: Export, type: number, offset: number, length: number): void {
  if (offset <= target.disk.size && length <= target.disk.size - offset) return;
  const grows = type === Command.write || type === Command.writeZeroes;
  throw new Refused(
    grows ? NbdError.ENOSPC : NbdError.EINVAL,
    `${length} bytes at ${offset} are not inside the disk of ${target.disk.size} bytes`,
  );
}

/**
 * Called between the pieces of what takes long.
 * @throws MillraceError `ECLOSED` when the server is closing
 */
export function mustGoOn(stop: Stop): void {
  if (stop.isGiven) throw new MillraceError('ECLOSED', 'the server is closing');
}
