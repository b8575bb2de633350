/**
 * The contract over HTTP: a fetch handler that serves disks and controls their jobs, for every
 * runtime with web-standard Request and Response. Access is closed unless the caller opens it;
 * every refusal is JSON with a `code` and a `message`. It never writes to a disk.
 *
 * - GET, HEAD `/disks/DEVICE/data`: the flat disk, whatever formats lie below, by ranges (data.ts)
 * - POST `/disks/DEVICE/stream`: starts a job: StreamOptions as JSON, or nothing; gives its
 *   StreamInfo, as the next four do
 * - POST `/disks/DEVICE/abort`: ends a job that was started with `nonblock`
 * - POST `/disks/DEVICE/pause` and `/resume`: of the job that runs
 * - POST `/disks/DEVICE/speed`: of the job that runs: `{ "speed": BYTES_A_SECOND }`, 0 is unlimited
 * - GET `/disks/DEVICE/info`: the StreamInfo of the job that runs, or of the last one
 * - GET `/disks/DEVICE/map`: the extents: `offset`, `length`, `depth` as in Disk.map
 * - GET `/disks/DEVICE/events`: the events of the disk, as they come (events.ts)
 * - GET `/disks/DEVICE`: `{ device, size, clusterSize, remaining }`, in bytes
 * - GET `/disks`: `{ device, size, clusterSize }` of each disk, where `disks` is a table of them
 * - GET, HEAD `/`: a page for people, where there is one (page.ts)
 */
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { OptionNames } from '../../api/options.ts';
import { mustKnowOptions } from '../../api/options.ts';
import type { Answer } from './answer.ts';
import { json, Refusal, refuse } from './answer.ts';
import { answerData } from './data.ts';
import { answerEvents } from './events.ts';
import { answerStream, controlled, pause, setSpeed } from './job.ts';
import { answerMap } from './map.ts';
import { answerPage } from './page.ts';

/** A handler that answers. */
export interface Listening {
  /** `http://ADDRESS:PORT` */
  readonly url: string;
  /** Ends what is still being answered. */
  close(): Promise<void>;
}

/** A fetch handler. */
export type Handler = (request: Request) => Promise<Response>;

/** Which disks are served, and to whom. */
export interface HandlerOptions {
  /** The disks by device, or what finds one (and may open it now) for a request that was let in. */
  disks:
    | Readonly<Record<string, Disk>>
    | ((device: string, request: Request) => Disk | undefined | Promise<Disk | undefined>);
  /** Who sends `Authorization: Bearer TOKEN` is let in. Without it and `authorize`, nobody is. */
  token?: string;
  /** A check of the caller's own, instead of a token. */
  authorize?: (request: Request) => boolean | Promise<boolean>;
  /**
   * Origins whose pages may use the handler (CORS), as browsers write them; a page of any other is
   * refused. Default none but the handler's own.
   */
  origins?: readonly string[];
  /**
   * What tells a disk's content from that of other times, across restarts; without it, a disk of
   * this library tells that itself. Any other has an ETag that lasts as long as it is open.
   */
  identity?: (device: string) => string | undefined;
  /**
   * HTML that `/` answers. It goes to whoever may ask without a token, so it holds no secrets; its
   * inline scripts and styles run, and nothing else is loaded (Content-Security-Policy).
   */
  page?: string;
}

export const HANDLER_OPTIONS: OptionNames<HandlerOptions> = {
  disks: true,
  token: true,
  authorize: true,
  origins: true,
  identity: true,
  page: true,
};

const PREFLIGHT_SECONDS = 600;

const ROUTES: Readonly<Record<string, Readonly<Record<string, Answer>>>> = {
  data: {
    GET: (ask) => answerData(ask.request, ask.disk, ask.identity),
    HEAD: (ask) => answerData(ask.request, ask.disk, ask.identity),
  },
  stream: { POST: answerStream },
  abort: { POST: controlled(({ disk }) => disk.abort()) },
  pause: { POST: controlled(pause) },
  resume: { POST: controlled(({ disk }) => disk.resume()) },
  speed: { POST: controlled(setSpeed) },
  info: { GET: async ({ disk }) => json(await disk.info()) },
  map: { GET: answerMap },
  events: { GET: ({ request, disk }) => answerEvents(request, disk) },
  // The disk itself: `/disks/DEVICE`.
  '': { GET: async (ask) => json({ ...shapeOf(ask), remaining: await ask.disk.remaining() }) },
};
const CALLS = Object.keys(ROUTES).filter((call) => call !== '');

/**
 * Makes the handler. It holds no state but the disks': several may serve the same ones.
 * @throws MillraceError `EINVAL` for an origin that is none.
 */
export function createHandler(options: HandlerOptions): Handler {
  mustKnowOptions('createHandler', options, HANDLER_OPTIONS);
  const wrong = options.origins?.find((origin) => !isOrigin(origin));
  if (wrong !== undefined)
    throw new MillraceError(
      'EINVAL',
      `'${wrong}' is not an origin: as in https://console.example or http://localhost:8080, without a path`,
    );
  return async (request) => {
    const cors = corsOf(request, options.origins ?? []);
    try {
      const response = request.method === 'OPTIONS' ? preflight() : await answer(request, options);
      for (const [name, value] of Object.entries(cors)) response.headers.set(name, value);
      return response;
    } catch (error) {
      return refuse(error, cors, request.method === 'HEAD');
    }
  };
}

async function answer(request: Request, options: HandlerOptions): Promise<Response> {
  const url = urlOf(request);
  refuseForeignPages(request, url, options.origins ?? []);
  if (url.pathname === '/' && options.page !== undefined) {
    if (options.authorize) await mayEnter(request, options);
    mustAllow(['GET', 'HEAD'], request, url);
    return answerPage(request, options.page);
  }
  await mayEnter(request, options);
  if (url.pathname === '/disks') {
    mustAllow(['GET'], request, url);
    return json(listOf(options.disks));
  }
  const { device, call } = placeOf(url);
  const route = call !== undefined && Object.hasOwn(ROUTES, call) ? ROUTES[call] : undefined;
  if (device === undefined || route === undefined)
    throw new MillraceError(
      'ENOENT',
      `there is nothing at ${url.pathname}: /disks/DEVICE/ and ${CALLS.slice(0, -1).join(', ')} or ${CALLS.at(-1)}`,
    );
  mustAllow(Object.keys(route), request, url);
  const act = route[request.method];
  const name = decoded(device);
  const disk = await find(options.disks, name, request);
  if (disk === undefined)
    throw new MillraceError('ENOENT', `there is no disk '${name}'`, { reason: 'no-such-disk' });
  return act({ request, url, device: name, disk, identity: options.identity?.(name) });
}

/** @throws Refusal of a method that is not one of these. */
function mustAllow(methods: readonly string[], { method }: Request, { pathname }: URL): void {
  if (methods.includes(method)) return;
  const allow = methods.join(', ');
  throw new Refusal(405, 'EINVAL', `${method} is no method of ${pathname}: ${allow}`, {
    Allow: allow,
  });
}

/**
 * What a URL asks for: the device, still encoded, and what is to be done with it ('' for the disk
 * itself); nothing where it leads to no disk.
 */
export function placeOf({ pathname }: URL): { device?: string; call?: string } {
  const [, device, call = ''] = /^\/disks\/([^/]+)(?:\/([^/]+))?$/.exec(pathname) ?? [];
  return device === undefined ? {} : { device, call };
}

function shapeOf({ device, disk }: { device: string; disk: Disk }): object {
  return { device, size: disk.size, clusterSize: disk.clusterSize };
}

function listOf(disks: HandlerOptions['disks']): object[] {
  if (typeof disks === 'function')
    throw new MillraceError('EUNSUPPORTED', 'the disks here are found by name, and not listed');
  return Object.entries(disks).map(([device, disk]) => shapeOf({ device, disk }));
}

/**
 * The name in it is the client's to choose (its Host header), and servers hand on whatever it is.
 */
function urlOf(request: Request): URL {
  if (!URL.canParse(request.url))
    throw new MillraceError(
      'EINVAL',
      `'${request.url}' is not a URL: see the request's Host and path`,
    );
  return new URL(request.url);
}

function decoded(device: string): string {
  try {
    return decodeURIComponent(device);
  } catch {
    throw new MillraceError('EINVAL', `'${device}' is not the name of a device`);
  }
}

function find(
  disks: HandlerOptions['disks'],
  device: string,
  request: Request,
): Disk | undefined | Promise<Disk | undefined> {
  if (typeof disks === 'function') return disks(device, request);
  return Object.hasOwn(disks, device) ? disks[device] : undefined;
}

/** @throws Refusal unless the caller's check, or the token, lets the request in. */
async function mayEnter(request: Request, { token, authorize }: HandlerOptions): Promise<void> {
  if (authorize !== undefined) {
    if (await authorize(request)) return;
    throw new Refusal(403, 'EACCES', 'this request is not allowed here');
  }
  if (token === undefined || token === '')
    throw new Refusal(
      403,
      'EACCES',
      'nobody is let in: the handler has neither a token nor a check',
    );
  const [, given] = /^Bearer +(.+)$/i.exec(request.headers.get('Authorization') ?? '') ?? [];
  if (given !== undefined && (await sameText(given, token))) return;
  const what =
    given === undefined
      ? 'a token is needed (Authorization: Bearer …)'
      : 'the token is not the right one';
  throw new Refusal(401, 'EACCES', what, { 'WWW-Authenticate': 'Bearer' });
}

/**
 * Compares digests, all bytes of them: the time it takes tells nothing of where two texts differ,
 * or how long they are.
 */
async function sameText(one: string, other: string): Promise<boolean> {
  const digest = async (text: string): Promise<Uint8Array> =>
    new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)));
  const [a, b] = [await digest(one), await digest(other)];
  let difference = 0;
  for (let at = 0; at < a.length; at++) difference |= a[at] ^ b[at];
  return difference === 0;
}

/**
 * A browser sends on behalf of any page, with whatever lets its user in: only pages that are meant
 * to may ask.
 */
function refuseForeignPages(request: Request, url: URL, origins: readonly string[]): void {
  const origin = request.headers.get('Origin');
  if (origin === null || origin === url.origin || origins.includes(origin)) return;
  throw new Refusal(403, 'EACCES', `pages of ${origin} are not allowed here`);
}

/**
 * No other would ever be found equal to what a browser sends. Schemes that are not the web's are
 * the browser's own affair.
 */
function isOrigin(text: string): boolean {
  return /^https?:/i.test(text)
    ? URL.canParse(text) && new URL(text).origin === text
    : /^[a-z][a-z0-9+.-]*:\/\/[^/?#]+$/.test(text);
}

function corsOf(request: Request, origins: readonly string[]): Record<string, string> {
  if (origins.length === 0) return {};
  const origin = request.headers.get('Origin');
  if (origin === null || !origins.includes(origin)) return { Vary: 'Origin' };
  return {
    Vary: 'Origin',
    'Access-Control-Allow-Origin': origin,
    'Access-Control-Expose-Headers': 'Content-Range, ETag, Accept-Ranges',
  };
}

/** Says what the methods and headers are; whether a page may use them, the origin decides. */
function preflight(): Response {
  return new Response(null, {
    status: 204,
    headers: {
      'Access-Control-Allow-Methods': 'GET, HEAD, POST',
      'Access-Control-Allow-Headers':
        'Authorization, Content-Type, Range, If-Range, If-Match, If-None-Match',
      'Access-Control-Max-Age': String(PREFLIGHT_SECONDS),
    },
  });
}
