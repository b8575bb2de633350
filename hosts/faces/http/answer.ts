/** What every route of the handler is given, and how it answers and refuses. */
import type { Disk } from '../../api/disk.ts';
import type { ErrorCode } from '../../api/errors.ts';
import { MillraceError, messageOf } from '../../api/errors.ts';

/** One request for one disk. */
export interface Ask {
  request: Request;
  url: URL;
  device: string;
  disk: Disk;
  /** What the caller says that its content is. */
  identity: string | undefined;
}

/** A route. */
export type Answer = (ask: Ask) => Response | Promise<Response>;

const STATUS: Readonly<Record<ErrorCode, number>> = {
  EINVAL: 400,
  EACCES: 403,
  ENOENT: 404,
  EBUSY: 409,
  EEXIST: 409,
  ABORTED: 409,
  ECHANGED: 409,
  ECORRUPT: 422,
  EUNSUPPORTED: 422,
  EROFS: 403,
  EIO: 502,
  ECLOSED: 503,
  ETIMEDOUT: 504,
  ENOSPC: 507,
};

/** A refusal with a status of its own. */
export class Refusal extends MillraceError {
  readonly status: number;
  readonly headers: Record<string, string>;

  constructor(
    status: number,
    code: ErrorCode,
    message: string,
    headers: Record<string, string> = {},
  ) {
    super(code, message);
    this.status = status;
    this.headers = headers;
  }
}

/** Tells an error as JSON. */
export function refuse(error: unknown, cors: Record<string, string>, bodiless: boolean): Response {
  const known = error instanceof MillraceError;
  const status = error instanceof Refusal ? error.status : known ? STATUS[error.code] : 500;
  const told = {
    code: known ? error.code : 'EIO',
    ...(known && error.reason && { reason: error.reason }),
    message: known ? error.message : `the handler failed: ${messageOf(error)}`,
  };
  const headers = {
    'Content-Type': 'application/json',
    'Cache-Control': 'no-store',
    ...cors,
    ...(error instanceof Refusal ? error.headers : {}),
  };
  return new Response(bodiless ? null : JSON.stringify(told), { status, headers });
}

/** Answers with a value as JSON. */
export function json(value: unknown, status = 200): Response {
  return new Response(JSON.stringify(value), {
    status,
    headers: { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' },
  });
}
