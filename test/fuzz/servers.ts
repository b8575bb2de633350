/**
 * Unruly HTTP servers: each has one object, and answers requests wrongly, in part, late or not at
 * all, as its seed says. What a request gets depends on the seed and the request's number alone. A
 * lie can always be found out: no server here sends other bytes under the headers of the right
 * ones, which nobody could notice.
 */

import type { OutgoingHttpHeaders } from 'node:http';
import { gzipSync } from 'node:zlib';
import { Random } from '../fixtures/content.ts';
import type { Ask } from '../http/object-server.ts';
import { ETAG, LAST_MODIFIED, serveObject } from '../http/object-server.ts';

export interface UnrulyServer {
  readonly url: string;
  /** What it did, by request. */
  readonly deeds: string[];
  /** From now on the object may be another one at times, in size, content and validators. */
  change(): void;
  /** From now on every answer is right. */
  behave(): void;
  stop(): Promise<void>;
}

/** One request, with what an answer is made of. */
interface Scene extends Ask {
  readonly object: Uint8Array;
  /** For what varies within a deed. */
  readonly random: Random;
  /**
   * Whether all other versions must differ in size: this server does not always tell its
   * validators.
   */
  readonly shy: boolean;
}

type Deed = (scene: Scene) => void;

const DEEDS_MAX = 5;
/** Of a hundred requests, so many are answered wrongly. */
const UNRULY_PER_CENT = [3, 10, 30, 70, 100];
/** A drip: pieces, and the longest wait before one. */
const DRIPS = 12;
const DRIP_MS_MAX = 25;
const STATUSES = [
  204, 304, 400, 401, 403, 404, 405, 408, 409, 410, 412, 416, 418, 425, 429, 500, 501, 502, 503,
  504, 507, 599,
];
const RETRY_AFTER = ['0', '1', '-1', 'soon', '', 'Tue, 03 Mar 2026 09:00:00 GMT', '1e9'];

/** Serves `object`. */
export async function serveUnruly(object: Uint8Array, seed: number): Promise<UnrulyServer> {
  const random = new Random(seed);
  const pick = <T>(choices: readonly T[]): T => choices[random.between(0, choices.length - 1)];
  const perCent = pick(UNRULY_PER_CENT);
  const validators = pick<OutgoingHttpHeaders>([
    {},
    {},
    { 'Last-Modified': undefined },
    { ETag: undefined },
    { ETag: `W/${ETAG}` },
    { ETag: undefined, 'Last-Modified': undefined },
  ]);
  const mix = Array.from({ length: random.between(1, DEEDS_MAX) }, () => pick(Object.keys(DEEDS)));
  const shy =
    mix.includes('hides its validators') ||
    ('ETag' in validators && validators.ETag === undefined && 'Last-Modified' in validators);
  const deeds: string[] = [];
  let changing = false;
  let behaving = false;
  const server = await serveObject(object, (ask) => {
    const own = new Random(seed ^ Math.imul(ask.number + 1, 0x9e3779b1));
    const answer: Ask['answer'] = (headers, body) =>
      ask.answer({ ...validators, ...headers }, body);
    const scene: Scene = {
      ...ask,
      headers: { ...ask.headers, ...validators },
      answer,
      object,
      random: own,
      shy,
    };
    const name = mix[own.between(0, mix.length - 1)];
    if (ask.request.url!.startsWith('/again') && !behaving) return redirected(scene, '/again');
    if (behaving || own.between(1, 100) > perCent || (CHANGES.has(name) && !changing))
      return answer();
    deeds.push(`${ask.number}: ${name}`);
    DEEDS[name](scene);
  });
  return {
    url: server.url,
    deeds,
    change: () => void (changing = true),
    behave: () => void (behaving = true),
    stop: server.stop,
  };
}

/** What a server can do to a request. */
const DEEDS: Record<string, Deed> = {
  refuses: (s) =>
    s.refuse(one(s, STATUSES), one(s, [true, false]) ? { 'Retry-After': one(s, RETRY_AFTER) } : {}),
  'is busy': (s) => s.refuse(one(s, [429, 503]), { 'Retry-After': one(s, RETRY_AFTER) }),
  'sends everything': (s) =>
    void s.response
      .writeHead(
        200,
        sent({ ...s.headers, 'Content-Range': undefined, 'Content-Length': s.object.length }),
      )
      .end(s.object),
  'sends another range': anotherRange,
  'garbles the range': (s) =>
    s.answer({
      'Content-Range': one(s, [
        undefined,
        'bytes',
        `bytes */${s.object.length}`,
        'bytes 9-8/7',
        `bytes ${s.first}-${s.end - 1}/*`,
        `pages 0-1/${s.object.length}`,
        'bytes 0-0/99999999999999999999',
      ]),
    }),
  'promises too much': (s) =>
    s.answer({ 'Content-Length': s.body.length + s.random.between(1, 70_000) }),
  'promises too little': (s) =>
    s.answer({ 'Content-Length': s.random.between(0, Math.max(0, s.body.length - 1)) }),
  'sends too little': (s) => s.answer({ 'Content-Length': undefined }, s.body.subarray(0, part(s))),
  'sends too much': (s) => {
    const more = s.object.subarray(0, s.random.between(1, 70_000));
    if (one(s, [true, false]))
      return s.answer({ 'Content-Length': undefined }, Buffer.concat([s.body, more]));
    s.response.writeHead(206, sent({ ...s.headers, 'Content-Length': undefined }));
    s.response.write(s.body, () => setTimeout(() => s.response.end(more), DRIP_MS_MAX));
  },
  'hangs up at once': (s) => s.response.destroy(),
  resets: (s) => begun(s, () => s.response.socket?.resetAndDestroy()),
  'hangs up': (s) => begun(s, () => s.response.socket?.destroySoon()),
  'never answers': () => {},
  stalls: (s) => begun(s, () => {}),
  'never ends': (s) =>
    void s.response
      .writeHead(206, sent({ ...s.headers, 'Content-Length': undefined }))
      .write(s.body),
  drips: (s) => {
    s.response.writeHead(206, sent(s.headers));
    drip(s, s.body, DRIPS);
  },
  'hides its validators': (s) => s.answer({ ETag: undefined, 'Last-Modified': undefined }),
  encodes: (s) => encoded(s),
  'sends a multipart': (s) =>
    s.answer({ 'Content-Type': 'multipart/byteranges; boundary=x', 'Content-Range': undefined }),
  redirects: (s) => redirected(s, one(s, ['/disk.img', '/disk.img?signed', '/elsewhere'])),
  'redirects for ever': (s) => redirected(s, '/again'),
  'redirects astray': (s) =>
    redirected(
      s,
      one(s, [
        'ftp://127.0.0.1/disk.img',
        'http://127.0.0.1:9/disk.img',
        'http://[',
        'data:,x',
        undefined,
      ]),
    ),
  'talks nonsense': (s) => void s.response.socket?.end(one(s, NONSENSE)),
  'talks like a server of old': (s) =>
    void s.response.socket?.end(Buffer.concat([oldHead(s), s.body])),
  'closes after its answer': (s) => s.answer({ Connection: 'close' }),
  'drops a connection it promised to keep': (s) => {
    const { socket } = s.response;
    s.response.once('finish', () => setImmediate(() => socket?.destroySoon()));
    s.answer();
  },
  'talks ahead of its answer': (s) => {
    for (let i = s.random.between(1, 5); i > 0; i--) s.response.writeProcessing();
    s.answer();
  },
  'has changed': changed,
  'has grown or shrunk': (s) => anotherSize(s),
  'says it has changed': (s) =>
    s.refuse(one(s, [412, 416]), {
      'Content-Range': `bytes */${one(s, [0, 1, s.object.length + 1])}`,
    }),
  'claims to be empty': (s) => void s.response.writeHead(200, { 'Content-Length': 0 }).end(),
};

/**
 * These deny that the object is what it was when it was first opened: before that, they would be
 * believed.
 */
const CHANGES = new Set([
  'has changed',
  'has grown or shrunk',
  'says it has changed',
  'claims to be empty',
]);

const NONSENSE = [
  '',
  '\0\0\0\0\0\0\0\0',
  'SSH-2.0-OpenSSH_9.2\r\n',
  'ICY 200 OK\r\n\r\n',
  'HTTP/9.9 206 Partial Content\r\n\r\n',
  'HTTP/1.1 20x Partial\r\n\r\n',
  'HTTP/1.1 99 Odd\r\n\r\n',
  'HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello',
  'HTTP/1.1 206 Partial Content\r\n: \r\n\r\n',
  `HTTP/1.1 206 Partial Content\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`,
  'HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n',
  'HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n',
  'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n',
];

function one<T>({ random }: Scene, choices: readonly T[]): T {
  return choices[random.between(0, choices.length - 1)];
}

/** Less than the whole body. */
function part({ random, body }: Scene): number {
  return random.between(0, Math.max(0, body.length - 1));
}

/** Headers without those that are undefined. */
function sent(headers: OutgoingHttpHeaders): OutgoingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== undefined));
}

/** Sends the right headers and a part of the body, then does something else. */
function begun(scene: Scene, then: () => void): void {
  scene.response.writeHead(206, sent(scene.headers));
  scene.response.write(scene.body.subarray(0, Math.max(1, part(scene))), then);
}

/** Sends the bytes in pieces, with a wait before each. */
function drip(scene: Scene, bytes: Uint8Array, pieces: number): void {
  const { response, random } = scene;
  if (response.destroyed) return;
  if (pieces <= 1) return void response.end(bytes);
  const length = random.between(0, Math.ceil((2 * bytes.length) / pieces));
  if (length > 0) response.write(bytes.subarray(0, length));
  setTimeout(() => drip(scene, bytes.subarray(length), pieces - 1), random.between(0, DRIP_MS_MAX));
}

/** Says honestly that it is another one: shifted, or shorter than asked. */
function anotherRange(scene: Scene): void {
  const { object } = scene;
  const shift = one(scene, [0, 1, -1, 512, -512, 65536]);
  const first = Math.max(0, Math.min(object.length - 1, scene.first + shift));
  const end = Math.max(
    first + 1,
    Math.min(object.length, scene.end + one(scene, [shift, shift, 0, -1, 512])),
  );
  scene.answer(
    {
      'Content-Range': `bytes ${first}-${end - 1}/${object.length}`,
      'Content-Length': end - first,
    },
    object.subarray(first, end),
  );
}

function encoded(scene: Scene): void {
  const body = gzipSync(scene.body, { level: 1 });
  scene.answer(
    {
      'Content-Encoding': one(scene, ['gzip', 'GZIP', 'br', 'deflate', 'x-unknown']),
      'Content-Length': body.length,
    },
    body,
  );
}

function redirected({ response, random }: Scene, location: string | undefined): void {
  response
    .writeHead(
      [301, 302, 303, 307, 308][random.between(0, 4)],
      sent({ Location: location, 'Content-Length': 0 }),
    )
    .end();
}

/** HTTP/1.0: the body ends with the connection. */
function oldHead({ headers }: Scene): Buffer {
  const { 'Content-Length': _, ...rest } = sent(headers);
  const lines = Object.entries(rest).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.from(`HTTP/1.0 206 Partial Content\r\n${lines.join('')}\r\n`);
}

/** Another object of the same size, as servers tell it that heed If-Range, and that do not. */
function changed(scene: Scene): void {
  if (scene.shy) return anotherSize(scene);
  const other = scene.body.map((byte) => byte ^ 0xff);
  const told = { ETag: '"v2"', 'Last-Modified': 'Wed, 04 Mar 2026 10:00:00 GMT' };
  const headers = Object.fromEntries(
    Object.entries(told).filter(([name]) => scene.headers[name] !== undefined),
  );
  if (one(scene, [true, false])) return scene.answer(headers, other);
  const whole = {
    ...scene.headers,
    ...headers,
    'Content-Range': undefined,
    'Content-Length': scene.object.length,
  };
  scene.response.writeHead(200, sent(whole)).end(scene.object.map((byte) => byte ^ 0xff));
}

/** Another object of another size. */
function anotherSize(scene: Scene): void {
  const size = Math.max(scene.end, scene.object.length + one(scene, [1, 512, 1 << 20]));
  scene.answer(
    {
      'Content-Range': `bytes ${scene.first}-${scene.end - 1}/${size}`,
      'Last-Modified': LAST_MODIFIED,
    },
    scene.body.map((byte) => byte ^ 0xff),
  );
}
