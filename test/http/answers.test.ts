/** Every wrong answer that a server can give, and what it is called. */
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import type { HttpOptions } from '../../hosts/bases/http/http.ts';
import { FIRST_PAGE_BYTES, openHttp } from '../../hosts/bases/http/http.ts';
import { checkResponse } from '../../hosts/bases/http/response.ts';
import type { Version } from '../../hosts/bases/http/version.ts';
import { identityOf } from '../../hosts/bases/http/version.ts';
import type { Failure } from '../../hosts/bases/retry.ts';
import type { Ask } from './object-server.ts';
import { ETAG, LAST_MODIFIED, pattern, serveObject } from './object-server.ts';
import { eachTransport } from './transports.ts';

const SIZE = FIRST_PAGE_BYTES + 500_000;
const object = pattern(SIZE);
/** Where the tests read: behind the first page. */
const AT = FIRST_PAGE_BYTES + 200_000;
const LENGTH = 10_000;

/** Answers as `right` does, and hangs up before the end. */
function cutOff(ask: Ask, right: (ask: Ask) => void): void {
  const { response } = ask;
  response.end = ((bytes: Uint8Array) => {
    response.write(bytes.subarray(0, 1000), () => response.destroy());
    return response;
  }) as typeof response.end;
  right(ask);
}

function error(code: string, message: RegExp | string): unknown {
  return expect.objectContaining({ code, message: expect.stringMatching(message) });
}

eachTransport((openHttp) => {
  /**
   * The error of a read for which the server answers as `script` says, after a right answer at
   * open.
   */
  async function readError(
    script: (ask: Ask) => void,
    atOpen: (ask: Ask) => void = (ask) => ask.answer(),
  ): Promise<unknown> {
    const server = await serveObject(object, (ask) =>
      ask.number === 0 ? atOpen(ask) : script(ask),
    );
    try {
      const source = await openHttp(server.url, { retries: 0 });
      return await source.read(AT, new Uint8Array(LENGTH)).then(
        () => 'no error',
        (error) => error,
      );
    } finally {
      await server.stop();
    }
  }

  /** What opening gives when the server answers as `script` says: the source, or the error. */
  async function opened(script: (ask: Ask) => void, options: HttpOptions = {}): Promise<unknown> {
    const server = await serveObject(object, script);
    try {
      return await openHttp(server.url, { retries: 0, ...options }).catch((error) => error);
    } finally {
      await server.stop();
    }
  }

  const whole = (ask: Ask): void => {
    ask.response
      .writeHead(200, { 'Content-Length': SIZE, ETag: ETAG, 'Last-Modified': LAST_MODIFIED })
      .end(object);
  };

  const wrong: [string, (ask: Ask) => void, string, RegExp][] = [
    [
      'another start',
      (ask) => ask.answer({ 'Content-Range': `bytes ${ask.first + 1}-${ask.end}/${SIZE}` }),
      'EIO',
      /another range than asked/,
    ],
    [
      'a longer range',
      (ask) =>
        ask.answer(
          {
            'Content-Range': `bytes ${ask.first}-${ask.end}/${SIZE}`,
            'Content-Length': ask.end - ask.first + 1,
          },
          object.subarray(ask.first, ask.end + 1),
        ),
      'EIO',
      /another range than asked/,
    ],
    [
      'a shorter range whose body is as long as asked',
      (ask) =>
        ask.answer({
          'Content-Range': `bytes ${ask.first}-${ask.end - 2}/${SIZE}`,
          'Content-Length': undefined,
        }),
      'EIO',
      /more bytes than the range/,
    ],
    [
      'no Content-Range',
      (ask) => ask.answer({ 'Content-Range': undefined }),
      'EIO',
      /without a Content-Range/,
    ],
    [
      'another unit',
      (ask) => ask.answer({ 'Content-Range': `pages ${ask.first}-${ask.end - 1}/${SIZE}` }),
      'EIO',
      /cannot be read/,
    ],
    [
      'a garbled Content-Range',
      (ask) => ask.answer({ 'Content-Range': 'bytes 1-' }),
      'EIO',
      /cannot be read/,
    ],
    [
      'an impossible Content-Range',
      (ask) => ask.answer({ 'Content-Range': `bytes 9-8/${SIZE}` }),
      'EIO',
      /impossible/,
    ],
    [
      'a range past the size',
      (ask) => ask.answer({ 'Content-Range': `bytes 0-${SIZE}/${SIZE}` }),
      'EIO',
      /impossible/,
    ],
    [
      'a size past 2^53',
      (ask) => {
        ask.answer({ 'Content-Range': `bytes ${ask.first}-${ask.end - 1}/9007199254740993` });
      },
      'EUNSUPPORTED',
      /larger than 2\^53/,
    ],
    [
      'a Content-Length that differs',
      (ask) => ask.answer({ 'Content-Length': ask.body.length - 1 }, ask.body.subarray(1)),
      'EIO',
      /Content-Length \d+ for a range of \d+/,
    ],
    [
      'a content encoding',
      (ask) => {
        const zipped = gzipSync(ask.body);
        ask.answer({ 'Content-Encoding': 'gzip', 'Content-Length': zipped.length }, zipped);
      },
      'EUNSUPPORTED',
      /Content-Encoding: gzip/,
    ],
    [
      'multipart',
      (ask) => ask.answer({ 'Content-Type': 'multipart/byteranges; boundary=x' }),
      'EUNSUPPORTED',
      /multipart\/byteranges/,
    ],
    ['204', (ask) => ask.refuse(204), 'EIO', /204.*no answer to a range request/],
    ['302 without a Location', (ask) => ask.refuse(302), 'EIO', /302/],
    ['400', (ask) => ask.refuse(400), 'EIO', /400 Bad Request/],
    ['401', (ask) => ask.refuse(401), 'EACCES', /401 Unauthorized/],
    ['403', (ask) => ask.refuse(403), 'EACCES', /403/],
    ['404', (ask) => ask.refuse(404), 'ENOENT', /404/],
    ['410', (ask) => ask.refuse(410), 'ENOENT', /410/],
    ['416', (ask) => ask.refuse(416, { 'Content-Range': `bytes */${SIZE}` }), 'EIO', /416/],
    [
      'a long body',
      (ask) => ask.answer({ 'Content-Length': undefined }, object.subarray(0, ask.body.length + 1)),
      'EIO',
      /more bytes than the range/,
    ],
    [
      'a short body',
      (ask) => ask.answer({ 'Content-Length': undefined }, ask.body.subarray(1)),
      'EIO',
      /ended its answer 1 bytes early/,
    ],
  ];

  describe('wrong answers', () => {
    test.each(wrong)('%s to a read', async (_, script, code, message) => {
      expect(await readError(script)).toEqual(error(code, message));
    });

    test('200 to a read', async () => {
      expect(await readError(whole)).toEqual(error('EUNSUPPORTED', /the server ignores Range/));
    });

    test.each<[string, (ask: Ask) => void, RegExp]>([
      [
        'larger than 16 MiB',
        (ask) => ask.response.writeHead(200, { 'Content-Length': 2 ** 24 + 1 }).flushHeaders(),
        /more than 16 MiB.*byte ranges; take it from start to end.*or download it/,
      ],
      ['of unknown length', (ask) => ask.response.writeHead(200).end(object), /16 MiB/],
      [
        'a page for people',
        (ask) =>
          ask.response
            .writeHead(200, { 'Content-Type': 'text/html', 'Content-Length': 4 })
            .end('page'),
        /sent a page \(text\/html\)/,
      ],
    ])('200 to open: %s', async (_, script, message) => {
      expect(await opened(script)).toEqual(error('EUNSUPPORTED', message));
    });

    test('a whole object that is small is taken, and asked for once', async () => {
      const server = await serveObject(object, (ask) =>
        ask.number === 0 ? cutOff(ask, whole) : whole(ask),
      );
      const source = await openHttp(server.url);
      const into = new Uint8Array(SIZE);
      await source.read(0, into);
      expect(Buffer.compare(into, object)).toBe(0);
      expect(server.ranges).toHaveLength(2);
      await server.stop();
    });

    test.each<[string, (ask: Ask) => void, boolean]>([
      [
        'HEAD tells it',
        (ask) => ask.response.writeHead(200, { ...ask.headers, 'Content-Length': SIZE }).end(),
        true,
      ],
      ['HEAD does not', (ask) => ask.response.writeHead(405).end(), false],
      [
        'HEAD tells of another',
        (ask) => ask.response.writeHead(200, { ETag: '"v2"', 'Content-Length': SIZE }).end(),
        false,
      ],
    ])('a range that hides the size of the object: %s', async (_, head, taken) => {
      const server = await serveObject(object, (ask) => {
        if (ask.request.method === 'HEAD') return head(ask);
        ask.answer({ 'Content-Range': `bytes ${ask.first}-${ask.end - 1}/*` });
      });
      const source = await openHttp(server.url, { retries: 0 }).catch((reason) => reason);
      if (taken) {
        const into = new Uint8Array(LENGTH);
        await source.read(AT, into);
        expect(Buffer.compare(into, object.subarray(AT, AT + LENGTH))).toBe(0);
        expect(source.size).toBe(SIZE);
      } else expect(source).toBeInstanceOf(Error);
      await server.stop();
    });

    test.each(wrong)('%s to open', async (_, script, code, message) => {
      expect(await opened(script)).toEqual(error(code, message));
    });

    test('name the object, the range and its offset', async () => {
      const failed = await readError((ask) => ask.refuse(400));
      expect(failed).toMatchObject({ name: 'MillraceError', offset: AT });
      const { message } = failed as Error;
      expect(message).toMatch(
        /^http:\/\/127\.0\.0\.1:\d+\/disk\.img, bytes \d+-\d+: the server answered 400/,
      );
      expect(message).toContain(`bytes ${AT}-${AT + LENGTH - 1}:`);
    });

    test('a whole object that comes in place of a range is cut off', async () => {
      const huge = async function* (): AsyncGenerator<Uint8Array> {
        while (true) yield object;
      };
      const server = await serveObject(object, (ask) => {
        ask.response.writeHead(200, { ETag: ETAG });
        void (async () => {
          for await (const bytes of huge()) {
            if (ask.response.destroyed) return;
            if (!ask.response.write(bytes))
              await new Promise((resolve) =>
                ask.response.once('drain', resolve).once('close', resolve),
              );
          }
        })();
      });
      expect(await openHttp(server.url).catch((error) => error)).toEqual(
        error('EUNSUPPORTED', /ignores Range/),
      );
      await server.cancellations(1);
      await server.stop();
    });
  });

  describe('a change', () => {
    const other = { ETag: '"v2"' };
    test.each<[string, (ask: Ask) => void, RegExp | string]>([
      [
        'another ETag',
        (ask) => ask.answer(other),
        /its ETag was "v1" and is "v2", or another server answers here: then give the URL of one; open it again$/,
      ],
      [
        'a weak ETag of the same name',
        (ask) => ask.answer({ ETag: `W/${ETAG}` }),
        /its ETag was "v1" and is W\/"v1"/,
      ],
      [
        'another size',
        (ask) => {
          ask.answer({ 'Content-Range': `bytes ${ask.first}-${ask.end - 1}/${SIZE + 1}` });
        },
        `its size was ${SIZE} bytes and is ${SIZE + 1};`,
      ],
      [
        'a size that ends before the range',
        (ask) => {
          ask.refuse(416, { 'Content-Range': 'bytes */5' });
        },
        `its size was ${SIZE} bytes and is 5;`,
      ],
      ['412', (ask) => ask.refuse(412), /412/],
      [
        '200 because of If-Range',
        (ask) => {
          if (ask.request.headers['if-range'] !== ETAG) return ask.answer();
          ask.response.writeHead(200, other).end(object.toReversed());
        },
        /its ETag was "v1" and is "v2"/,
      ],
    ])('%s: ECHANGED', async (_, script, message) => {
      expect(await readError(script)).toEqual(error('ECHANGED', message));
    });

    test('an answer without the ETag of the first one is not trusted', async () => {
      expect(await readError((ask) => ask.answer({ ETag: undefined }))).toEqual(
        error('EIO', /lacks the ETag/),
      );
    });

    test('with a strong ETag the date says nothing', async () => {
      expect(
        await readError((ask) => ask.answer({ 'Last-Modified': 'Wed, 04 Mar 2026 10:00:00 GMT' })),
      ).toBe('no error');
    });

    test('with a weak ETag no If-Range is sent, and it and the date are compared', async () => {
      const weak = { ETag: 'W/"w1"' };
      const atOpen = (ask: Ask): void => ask.answer(weak);
      const sound = (ask: Ask): void =>
        ask.request.headers['if-range'] === undefined ? ask.answer(weak) : ask.refuse(400);
      expect(await readError(sound, atOpen)).toBe('no error');
      expect(await readError((ask) => ask.answer({ ETag: 'W/"w2"' }), atOpen)).toEqual(
        error('ECHANGED', /its ETag was W\/"w1"/),
      );
      const later = (ask: Ask): void =>
        ask.answer({ ...weak, 'Last-Modified': 'Wed, 04 Mar 2026 10:00:00 GMT' });
      expect(await readError(later, atOpen)).toEqual(
        error('ECHANGED', /its Last-Modified was Tue/),
      );
    });

    test('with a date alone, the date is compared', async () => {
      const atOpen = (ask: Ask): void => ask.answer({ ETag: undefined });
      expect(await readError(atOpen, atOpen)).toBe('no error');
      const later = (ask: Ask): void =>
        ask.answer({ ETag: undefined, 'Last-Modified': 'Wed, 04 Mar 2026 10:00:00 GMT' });
      expect(await readError(later, atOpen)).toEqual(
        error('ECHANGED', /its Last-Modified was Tue/),
      );
    });

    test('in the middle of a range that is asked again: ECHANGED', async () => {
      const script = (ask: Ask): void => {
        if (ask.number > 1) return ask.answer(other);
        ask.response.writeHead(206, ask.headers as Record<string, string>);
        ask.response.write(ask.body.subarray(0, 100), () => ask.response.destroy());
      };
      const server = await serveObject(object, (ask) =>
        ask.number === 0 ? ask.answer() : script(ask),
      );
      const source = await openHttp(server.url);
      await expect(source.read(AT, new Uint8Array(LENGTH))).rejects.toMatchObject({
        code: 'ECHANGED',
      });
      await server.stop();
    });
  });

  describe('right answers that are seldom seen', () => {
    test('416 with size 0 is an empty object', async () => {
      expect(
        await opened((ask) => ask.refuse(416, { 'Content-Range': 'bytes */0' })),
      ).toMatchObject({ size: 0 });
    });

    /** Answers with no more than so many bytes of what was asked for (RFC 9110, section 15.3.7). */
    const inPartsOf =
      (bytes: number) =>
      (ask: Ask): void => {
        const end = Math.min(ask.end, ask.first + bytes);
        ask.answer(
          {
            'Content-Range': `bytes ${ask.first}-${end - 1}/${SIZE}`,
            'Content-Length': end - ask.first,
          },
          object.subarray(ask.first, end),
        );
      };

    test('less than was asked for: the rest is asked for at once', async () => {
      const server = await serveObject(object, inPartsOf(100_000));
      const source = await openHttp(server.url, { retries: 0 });
      const into = new Uint8Array(300_000);
      await source.read(FIRST_PAGE_BYTES, into);
      expect(
        Buffer.compare(into, object.subarray(FIRST_PAGE_BYTES, FIRST_PAGE_BYTES + into.length)),
      ).toBe(0);
      expect(server.ranges).toEqual(
        [0, 1, 2, 3]
          .map((part) => `${part * 100_000}-${FIRST_PAGE_BYTES - 1}`)
          .concat(
            [0, 1, 2].map(
              (part) =>
                `${FIRST_PAGE_BYTES + part * 100_000}-${FIRST_PAGE_BYTES + into.length - 1}`,
            ),
          ),
      );
      expect(source.stats.retries).toBe(0);
      await server.stop();
    });

    test('so little at once that it would never end: an error', async () => {
      expect(await opened(inPartsOf(10))).toEqual(
        error('EIO', /sends ranges in pieces of 10 bytes/),
      );
    });

    test('200 from a server that has heeded ranges before: asked again, without If-Range', async () => {
      const asked: unknown[] = [];
      const server = await serveObject(object, (ask) => {
        asked.push(ask.request.headers['if-range']);
        if (ask.number === 1) whole(ask);
        else ask.answer();
      });
      const source = await openHttp(server.url, { retries: 1 });
      const into = new Uint8Array(LENGTH);
      for (let reads = 0; reads < 2; reads++) await source.read(AT, into);
      expect(Buffer.compare(into, object.subarray(AT, AT + LENGTH))).toBe(0);
      expect(asked).toEqual([undefined, ETAG, undefined, undefined]);
      await server.stop();
    });

    test('a chunked body, and identity named as its encoding', async () => {
      const script = (ask: Ask): void =>
        ask.answer({ 'Content-Length': undefined, 'Content-Encoding': 'identity' });
      expect(await readError(script, script)).toBe('no error');
    });

    test('no validator at all: the size is held to', async () => {
      const bare = { ETag: undefined, 'Last-Modified': undefined };
      expect(
        await readError(
          (ask) => ask.answer(bare),
          (ask) => ask.answer(bare),
        ),
      ).toBe('no error');
      const grown = (ask: Ask): void =>
        ask.answer({ ...bare, 'Content-Range': `bytes ${ask.first}-${ask.end - 1}/${SIZE + 1}` });
      expect(await readError(grown, (ask) => ask.answer(bare))).toEqual(
        error('ECHANGED', /its size/),
      );
    });

    test('asks for one range, unencoded', async () => {
      const asked: unknown[] = [];
      await opened((ask) => {
        asked.push(ask.request.headers);
        ask.answer();
      });
      // Node's fetch adds a second `identity` of its own to a range request.
      const headers = {
        range: `bytes=0-${FIRST_PAGE_BYTES - 1}`,
        'accept-encoding': expect.stringMatching(/^identity(, identity)?$/),
      };
      expect(asked).toEqual([expect.objectContaining(headers)]);
      expect(asked[0]).not.toHaveProperty('if-range');
    });

    test('identities', () => {
      const of = (version: Omit<Version, 'size'>): string | undefined =>
        identityOf({ size: 7, ...version });
      expect(of({ etag: '"a"', lastModified: LAST_MODIFIED })).toBe('etag "a"');
      expect(of({ etag: 'W/"a"', lastModified: LAST_MODIFIED })).toBe(
        `modified ${LAST_MODIFIED} size 7`,
      );
      expect(of({ etag: 'W/"a"' })).toBe('etag W/"a" size 7');
      expect(of({})).toBeUndefined();
    });
  });
});

describe('in a page, from another origin', () => {
  /**
   * A fetch whose answers look as a page sees them: marked `cors`, and only the exposed headers
   * there.
   */
  const corsFetch =
    (...exposed: string[]): typeof fetch =>
    async (input, init) => {
      const response = await fetch(input, init);
      const names = ['content-type', 'content-length', 'last-modified', ...exposed];
      const headers = new Headers([...response.headers].filter(([name]) => names.includes(name)));
      const seen = new Response(response.body, { status: response.status, headers });
      return Object.defineProperty(seen, 'type', { value: 'cors' });
    };

  test('a hidden Content-Range is named with the header that shows it', async () => {
    const server = await serveObject(object);
    const hidden = await openHttp(server.url, { fetch: corsFetch(), retries: 0 }).catch(
      (error) => error,
    );
    expect(hidden).toEqual(
      error('EUNSUPPORTED', /hidden.*Access-Control-Expose-Headers: Content-Range, ETag/),
    );
    await server.stop();
  });

  test('no If-Range is sent, which would need a preflight; the ETag is compared', async () => {
    let etag = ETAG;
    const server = await serveObject(object, (ask) => {
      if (ask.request.headers['if-range'] === undefined) ask.answer({ ETag: etag });
      else ask.refuse(400);
    });
    const source = await openHttp(server.url, { fetch: corsFetch('content-range', 'etag') });
    await source.read(AT, new Uint8Array(LENGTH));
    etag = '"v2"';
    await expect(source.read(AT, new Uint8Array(LENGTH))).rejects.toMatchObject({
      code: 'ECHANGED',
    });
    await server.stop();
  });
});

test('an answer is checked against the version before its range: a changed size is a change, not a wrong range', () => {
  const response = new Response(null, {
    status: 206,
    headers: { 'Content-Range': 'bytes 0-9/10', ETag: '"v2"' },
  });
  expect(() =>
    checkResponse(response, { first: 0, end: 20 }, { version: { size: 20, etag: '"v1"' } }),
  ).toThrow(expect.objectContaining({ code: 'ECHANGED' }));
});

test('a Retry-After is a date by the clock of the server that sends it', () => {
  const waits = (headers: Record<string, string>): unknown => {
    try {
      return checkResponse(new Response(null, { status: 503, headers }), { first: 0, end: 20 }, {});
    } catch (failure) {
      return (failure as Failure).retryAfterMs;
    }
  };
  const retryAfter = { 'Retry-After': 'Tue, 03 Mar 2026 10:00:05 GMT' };
  expect(waits({ ...retryAfter, Date: 'Tue, 03 Mar 2026 10:00:00 GMT' })).toBe(5000);
  const soon = { 'Retry-After': new Date(Date.now() + 3_600_000).toUTCString() };
  for (const headers of [soon, { ...soon, Date: 'now' }]) expect(waits(headers)).toBe(60_000);
});
