/** URLs, credentials, headers, and URLs that expire. */
import { describe, expect, test } from 'vitest';
import { redactText } from '../../hosts/bases/http/address.ts';
import { FIRST_PAGE_BYTES, openHttp, redactUrl } from '../../hosts/bases/http/http.ts';
import type { Ask } from './object-server.ts';
import { pattern, serveObject } from './object-server.ts';
import { eachTransport } from './transports.ts';

const object = pattern(FIRST_PAGE_BYTES + 1_000_000);
const FIRST_PAGE = `0-${FIRST_PAGE_BYTES - 1}`;
/**
 * Where the tests read: behind the first page, so far from each other that no request takes two of
 * them.
 */
const PLACES = [1, 2, 3, 4].map((n) => FIRST_PAGE_BYTES + n * 200_000);
const [AT, LATER] = PLACES;
const into = new Uint8Array(1000);
const RANGE = `${AT}-${AT + into.length - 1}`;

describe('redacted', () => {
  test.each([
    ['https://example.org/a/b.qcow2', 'https://example.org/a/b.qcow2'],
    ['https://user:secret@example.org/a', 'https://example.org/a'],
    ['https://user@example.org:8443/a?X-Signature=secret#secret', 'https://example.org:8443/a?…'],
    ['https://example.org/a?', 'https://example.org/a?…'],
    ['https://example.org/a#secret?x', 'https://example.org/a'],
    ['user:secret@example.org/a', 'example.org/a'],
    ['ftp://user:secret@example.org/a', 'ftp://example.org/a'],
    ['http://user:secret/1@example.org/a?b=secret', 'http://example.org/a?…'],
    ['http:\\\\user:secret@example.org\\a', 'http://example.org/a'],
    ['no url', 'no url'],
  ])('%s', (url, shown) => {
    expect(redactUrl(url)).toBe(shown);
  });

  test('URLs inside of text', () => {
    const text =
      'error sending request for url (http://127.0.0.1:1/disk.img?signature=secret): os error 111';
    expect(redactText(text)).not.toMatch('secret');
    expect(redactText('to https://u:secret@h/x, then')).toBe('to https://h/x, then');
    expect(redactText('connect ECONNREFUSED 127.0.0.1:80')).toBe(
      'connect ECONNREFUSED 127.0.0.1:80',
    );
  });

  test('what a fetch says, in message and cause', async () => {
    const failing = async (): Promise<Response> => {
      throw new TypeError('error sending request for url (http://host/disk.img?signature=secret)', {
        cause: new Error('at http://host/?secret'),
      });
    };
    const error = await openHttp('http://host/disk.img?signature=secret', {
      fetch: failing,
      retries: 0,
    }).catch((reason) => reason);
    expect(error.message).toMatch(
      new RegExp(`^http://host/disk\\.img\\?…, bytes ${FIRST_PAGE}: the connection failed`),
    );
    for (let inner = error; inner instanceof Error; inner = inner.cause)
      expect(inner.message).not.toMatch('secret');
  });
});

describe('refused', () => {
  test.each([
    ['ftp://user:secret@example.org/a', 'EUNSUPPORTED', /over http: or https:, not ftp:/],
    ['file:///etc/passwd', 'EUNSUPPORTED', /not file:/],
    ['data:,abc', 'EUNSUPPORTED', /not data:/],
    ['user:secret@example.org/a', 'EUNSUPPORTED', /^example\.org\/a: .*not user:/],
    ['/a/path', 'EINVAL', /not a URL: \/a\/path/],
    ['http://user:secret/1@example.org/', 'EINVAL', /not a URL: http:\/\/example\.org\//],
    ['', 'EINVAL', /not a URL/],
  ])('%s', async (url, code, message) => {
    const error = await openHttp(url).catch((reason) => reason);
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
    expect(error.message).not.toMatch('secret');
  });

  test('options out of range', async () => {
    for (const options of [
      { depth: 1 },
      { depth: 65 },
      { timeout: 0 },
      { timeout: NaN },
      { retries: -1 },
      { retries: 1.5 },
    ]) {
      const [name] = Object.keys(options);
      await expect(openHttp('http://127.0.0.1:1/', options)).rejects.toMatchObject({
        code: 'EINVAL',
        message: expect.stringMatching(name),
      });
    }
  });

  test('headers that cannot be sent, without showing them', async () => {
    const error = await openHttp('http://127.0.0.1:1/', {
      headers: { Authorization: 'Bearer\nsecret' },
    }).catch((reason) => reason);
    expect(error).toMatchObject({ code: 'EINVAL' });
    expect(error.message).not.toMatch('secret');
  });
});

eachTransport((openHttp) => {
  describe('headers', () => {
    /** The Authorization and Range headers that arrive at open and a read. */
    async function sent(
      userinfo: string,
      options: Parameters<typeof openHttp>[1],
    ): Promise<[string | undefined, string | undefined][]> {
      const seen: [string | undefined, string | undefined][] = [];
      const server = await serveObject(object, (ask) => {
        seen.push([ask.request.headers.authorization, ask.request.headers.range]);
        ask.answer();
      });
      const source = await openHttp(server.url.replace('//', `//${userinfo}`), options);
      await source.read(AT, into);
      await server.stop();
      return seen;
    }

    test('the user of the URL as Basic, in UTF-8', async () => {
      const basic = `Basic ${Buffer.from('jörg:p@ss:w%rd').toString('base64')}`;
      expect(await sent('j%C3%B6rg:p%40ss:w%rd@', {})).toEqual([
        [basic, `bytes=${FIRST_PAGE}`],
        [basic, `bytes=${RANGE}`],
      ]);
    });

    test("the caller's own go ahead of that, and cannot replace the range", async () => {
      const headers = { authorization: 'Bearer token', range: 'bytes=5-6' };
      expect(await sent('user:pass@', { headers })).toEqual([
        ['Bearer token', `bytes=${FIRST_PAGE}`],
        ['Bearer token', `bytes=${RANGE}`],
      ]);
    });

    test('a function is asked before each request', async () => {
      let calls = 0;
      const headers = async (): Promise<Record<string, string>> => ({
        authorization: `Bearer ${++calls}`,
      });
      expect((await sent('', { headers })).map(([authorization]) => authorization)).toEqual([
        'Bearer 1',
        'Bearer 2',
      ]);
    });

    test('a function is asked again after 401, once', async () => {
      let token = 0;
      const expired = (ask: Ask): void =>
        ask.request.headers.authorization === 'Bearer 2' ? ask.answer() : ask.refuse(401);
      const server = await serveObject(object, expired);
      const source = await openHttp(server.url, {
        headers: () => ({ authorization: `Bearer ${++token}` }),
      });
      expect(source.stats).toMatchObject({ requests: 2, retries: 1 });
      await expect(source.read(AT, into)).rejects.toMatchObject({ code: 'EACCES' });
      expect(source.stats.requests).toBe(4);
      await server.stop();
    });
  });

  describe('a function that returns the URL', () => {
    /** A server that lets in only the newest signature, and a function that signs. */
    async function signing(status = 403) {
      const state = { signed: 0, valid: 1 };
      const server = await serveObject(object, (ask) => {
        if (ask.request.url === `/disk.img?signature=${state.valid}`) ask.answer();
        else ask.refuse(status);
      });
      const url = async (): Promise<string> => `${server.url}?signature=${++state.signed}`;
      return { server, url, state };
    }

    test.each([400, 401, 403])(
      'is asked at open, and again when the signature has expired, which the server tells by %i',
      async (status) => {
        const { server, url, state } = await signing(status);
        const source = await openHttp(url);
        await source.read(AT, into);
        expect(state.signed).toBe(1);
        state.valid = 2;
        await source.read(LATER, into);
        expect(into).toEqual(object.subarray(LATER, LATER + into.length));
        expect(state.signed).toBe(2);
        expect(source.name).toBe(`${server.url}?…`);
        await server.stop();
      },
    );

    test('is asked once for many reads that are refused together', async () => {
      const { server, url, state } = await signing();
      const source = await openHttp(url);
      state.valid = 2;
      await Promise.all(PLACES.map((at) => source.read(at, new Uint8Array(1000))));
      expect(state.signed).toBe(2);
      await server.stop();
    });

    test('is asked no more than once a request', async () => {
      const { server, url, state } = await signing();
      const source = await openHttp(url);
      state.valid = 99;
      await expect(source.read(AT, into)).rejects.toMatchObject({ code: 'EACCES' });
      expect(state.signed).toBe(2);
      await server.stop();
    });

    test('its own error is passed on, and the next read asks it again', async () => {
      const { server, url, state } = await signing();
      let down = false;
      const source = await openHttp(() => {
        if (down) throw new Error('the signer is down');
        return url();
      });
      state.valid = 2;
      down = true;
      const error = await source.read(AT, into).catch((reason) => reason);
      expect(error).toMatchObject({
        code: 'EIO',
        message: expect.stringMatching(/the signer is down/),
      });
      down = false;
      await source.read(AT, into);
      expect(state.signed).toBe(2);
      await server.stop();
    });
  });
});
