/** What is told of a job: how far it is, and how it ended. */
import {
  JOB_ABORTED,
  JOB_DETAIL,
  JOB_ERROR,
  JOB_ERROR_IMAGE,
  JOB_ERROR_OFFSET,
  JOB_FROM,
  JOB_KEPT,
  JOB_PAUSED,
  JOB_REASON,
  JOB_REMAINING,
  JOB_SPEED,
  JOB_STATUS,
  JOB_TO,
  STATUS_NONE,
} from '../../../engine/protocol.ts';
import { codeOf, MillraceError, messageOf } from '../../api/errors.ts';
import type { StreamInfo } from '../../api/job.ts';
import { JobStatus } from '../../api/job.ts';
import type { Engine } from '../driver/engine.ts';
import type { Failure } from '../driver/error-ledger.ts';

/** What the engine does not know of a job. */
export interface HostsPart {
  /** It keeps compressed clusters as they are. */
  keeps: boolean;
  /** It is done for the engine, and its bases are gone through to their end. */
  isProving: boolean;
}

/** The job as it stands. */
export function reportOf(engine: Engine, { keeps, isProving }: HostsPart): StreamInfo {
  const job = engine.jobReport();
  const status = isProving ? JobStatus.ACTIVE : job[JOB_STATUS];
  const info: StreamInfo = {
    status: (status === STATUS_NONE ? JobStatus.FAILED : status) as StreamInfo['status'],
    remaining: job[JOB_REMAINING],
    offset: job[JOB_FROM],
    length: job[JOB_TO] - job[JOB_FROM],
    speed: job[JOB_SPEED],
    // The engine keeps the word of a job that was aborted while it was paused.
    paused: status === JobStatus.ACTIVE && job[JOB_PAUSED] !== 0,
  };
  if (keeps) info.kept = job[JOB_KEPT];
  if (info.status === JobStatus.FAILED) info.reason = job[JOB_ABORTED] ? 'aborted' : 'error';
  const error = failureOf(engine);
  if (error) info.error = { ...asTold(error), offset: job[JOB_ERROR_OFFSET] };
  return info;
}

/** The first error of the job, if there was one. */
export function failureOf(engine: Engine): MillraceError | undefined {
  const job = engine.jobReport();
  if (!job[JOB_ERROR]) return undefined;
  const failure: Failure = {
    code: job[JOB_ERROR],
    reason: job[JOB_REASON],
    image: job[JOB_ERROR_IMAGE],
    offset: job[JOB_ERROR_OFFSET],
    detail: job[JOB_DETAIL],
  };
  return engine.errorOf(failure, 'stream');
}

/** What a job that has failed rejects with. */
export function errorAtEnd({ reason, error }: StreamInfo, cause?: MillraceError): MillraceError {
  const aborted = reason === 'aborted';
  return new MillraceError(
    aborted ? 'ABORTED' : (error?.code ?? 'EIO'),
    aborted ? 'the stream was aborted' : (error?.message ?? 'the stream failed'),
    { cause, offset: error?.offset, reason: error?.reason },
  );
}

/** What a job is told as, and rejects with, that something else ended than the engine. */
export function brokenBy(
  cause: unknown,
  info: StreamInfo,
): { info: StreamInfo; error: MillraceError } {
  const error =
    cause instanceof MillraceError
      ? cause
      : new MillraceError(codeOf(cause), `cannot stream: ${messageOf(cause)}`, { cause });
  const isAborted = error.code === 'ABORTED';
  return {
    info: {
      ...info,
      status: JobStatus.FAILED,
      reason: isAborted ? 'aborted' : 'error',
      error: isAborted ? undefined : asTold(error),
    },
    error,
  };
}

function asTold({ code, reason, message }: MillraceError): NonNullable<StreamInfo['error']> {
  return { code, ...(reason && { reason }), message };
}
