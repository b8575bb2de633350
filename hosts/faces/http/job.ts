/** The job of a disk over HTTP: started with options, and controlled while it runs. */

import { MillraceError } from '../../api/errors.ts';
import type { StreamOptions } from '../../api/job.ts';
import { JobStatus } from '../../api/job.ts';
import type { Answer, Ask } from './answer.ts';
import { json, Refusal } from './answer.ts';

/** Far more than the options of a job take. */
const BODY_BYTES_MAX = 64 * 1024;

/** A blocking job ends with its request: who no longer waits for it, cancels it. */
export async function answerStream({ request, disk }: Ask): Promise<Response> {
  const options = streamOptions(await textOf(request));
  const info = await disk.stream(
    options.nonblock ? options : { ...options, signal: request.signal },
  );
  return json(info, info.status === JobStatus.ACTIVE ? 202 : 200);
}

/** What is done to the job that runs; its StreamInfo is told afterwards. */
export function controlled(act: (ask: Ask) => Promise<void>): Answer {
  return async (ask) => {
    await act(ask);
    return json(await ask.disk.info());
  };
}

/** Done as soon as the job is told to: what it has in flight may take its time. */
export async function pause({ disk }: Ask): Promise<void> {
  const { status, paused } = await disk.info();
  if (status === JobStatus.ACTIVE && paused) return;
  const done = new AbortController();
  const told = new Promise<void>((resolve) =>
    disk.addEventListener('paused', () => resolve(), { signal: done.signal }),
  );
  try {
    await Promise.race([disk.pause(), told]);
  } finally {
    done.abort();
  }
}

export async function setSpeed({ request, disk }: Ask): Promise<void> {
  const { speed, ...others } = fieldsOf(await textOf(request), 'speed');
  const wrong = Object.keys(others)[0];
  if (wrong !== undefined || typeof speed !== 'number')
    throw new MillraceError(
      'EINVAL',
      `the body is { "speed": BYTES_A_SECOND }, not with ${wrong === undefined ? `a speed of ${JSON.stringify(speed)}` : `'${wrong}'`}`,
    );
  await disk.setSpeed(speed);
}

/** The body, which must be small. */
async function textOf(request: Request): Promise<string> {
  let text = '';
  let bytes = 0;
  if (request.body === null) return text;
  const decoder = new TextDecoder();
  for (const reader = request.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    bytes += value.length;
    if (bytes > BODY_BYTES_MAX) {
      await reader.cancel();
      throw new Refusal(413, 'EINVAL', `the body is longer than ${BODY_BYTES_MAX} bytes`);
    }
    text += decoder.decode(value, { stream: true });
  }
}

/** What a job can be asked over HTTP, and of which type each is. */
const STREAM_FIELDS = {
  offset: ['number'],
  length: ['number'],
  nonblock: ['boolean'],
  speed: ['number'],
  onError: ['string'],
  base: ['string', 'number'],
  keepBase: ['boolean'],
  allocate: ['string'],
  compressed: ['string'],
  order: ['string'],
} as const satisfies Partial<Record<keyof StreamOptions, readonly string[]>>;

/** Of a body, which is a JSON object. */
function fieldsOf(text: string, what: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new MillraceError('EINVAL', `the body is not JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new MillraceError('EINVAL', `the body is not a JSON object of ${what}`);
  return value as Record<string, unknown>;
}

/** Checks names and types; what the values mean, the disk checks. */
function streamOptions(text: string): StreamOptions {
  if (text.trim() === '') return {};
  const value = fieldsOf(text, 'options');
  for (const [name, field] of Object.entries(value)) {
    if (!Object.hasOwn(STREAM_FIELDS, name))
      throw new MillraceError(
        'EINVAL',
        `stream has no option '${name}': ${Object.keys(STREAM_FIELDS).join(', ')}`,
      );
    const types: readonly string[] = STREAM_FIELDS[name as keyof typeof STREAM_FIELDS];
    if (!types.includes(typeof field))
      throw new MillraceError(
        'EINVAL',
        `the option '${name}' is a ${types.join(' or ')}, not ${JSON.stringify(field)}`,
      );
  }
  const { order = 'sequential' } = value as StreamOptions;
  // A path or URL is the server's own affair.
  if (order !== 'sequential' && order !== 'profile')
    throw new MillraceError('EINVAL', "cannot stream: order is 'sequential' or 'profile'");
  return value;
}
