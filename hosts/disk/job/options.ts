/** What a caller says of a job, checked, and as the engine takes it. */
import {
  ON_ERROR_ENOSPC,
  ON_ERROR_IGNORE,
  ON_ERROR_REPORT,
  ON_ERROR_STOP,
} from '../../../engine/protocol.ts';
import { MillraceError } from '../../api/errors.ts';
import type { StreamOptions } from '../../api/job.ts';

const ON_ERROR = {
  report: ON_ERROR_REPORT,
  stop: ON_ERROR_STOP,
  ignore: ON_ERROR_IGNORE,
  enospc: ON_ERROR_ENOSPC,
} as const;

/** A job as the disk hands it over. */
export interface JobStart extends StreamOptions {
  /** It begins as one that has been paused, and touches nothing before it is resumed. */
  paused?: boolean;
  /** What is copied first, in this order: bytes of the disk. */
  ranges?: readonly { offset: number; length: number }[];
}

/** A job as the engine takes it. */
export interface CheckedJob {
  offset: number;
  /** 0 from the start of the disk: all of it. */
  length: number;
  speed: number;
  onError: number;
  takesAllSpace: boolean;
  keepsCompressed: boolean;
}

/** @throws MillraceError `EINVAL` for an invalid option. */
export function checkedJob(options: JobStart, diskSize: number): CheckedJob {
  const { offset = 0, onError = 'report', allocate = 'sparse', compressed = 'inflate' } = options;
  // What no length was given for goes on to the end of the disk; a length of 0 is one, but for
  // libvirt's way to mean all of it.
  const { length = offset === 0 ? 0 : Math.max(0, diskSize - offset) } = options;
  checkStream({ offset, length, onError, allocate, compressed });
  return {
    offset,
    length,
    speed: checkedSpeed(options.speed ?? 0),
    onError: ON_ERROR[onError],
    takesAllSpace: allocate === 'full',
    keepsCompressed: compressed === 'keep',
  };
}

function checkStream({
  offset,
  length,
  onError,
  allocate,
  compressed,
}: Required<
  Pick<StreamOptions, 'offset' | 'length' | 'onError' | 'allocate' | 'compressed'>
>): void {
  for (const [name, value] of [
    ['offset', offset],
    ['length', length],
  ] as const) {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new MillraceError('EINVAL', `cannot stream: ${name} ${value} is not a number of bytes`);
  }
  if (!Object.hasOwn(ON_ERROR, onError))
    throw new MillraceError(
      'EINVAL',
      `cannot stream: onError is report, stop, ignore or enospc, not '${onError}'`,
    );
  if (allocate !== 'sparse' && allocate !== 'full')
    throw new MillraceError(
      'EINVAL',
      `cannot stream: allocate is sparse or full, not '${allocate}'`,
    );
  if (compressed !== 'inflate' && compressed !== 'keep')
    throw new MillraceError(
      'EINVAL',
      `cannot stream: compressed is inflate or keep, not '${compressed}'`,
    );
  if (compressed === 'keep' && allocate === 'full')
    throw new MillraceError(
      'EINVAL',
      `cannot stream: compressed 'keep' saves the space that allocate 'full' is to take`,
    );
}

export function checkedSpeed(speed: number): number {
  if (!Number.isFinite(speed) || speed < 0)
    throw new MillraceError('EINVAL', `invalid speed ${speed}: must be 0 or more bytes per second`);
  return Math.min(Math.ceil(speed), Number.MAX_SAFE_INTEGER);
}
