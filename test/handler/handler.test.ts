/**
 * The handler over real HTTP: a served disk is a good base, its job is controlled from afar, and
 * bad requests are refused by name.
 */
import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Disk, Extent } from '../../hosts/api/disk.ts';
import type { StreamInfo } from '../../hosts/api/job.ts';
import type { HandlerOptions } from '../../hosts/faces/http/handler.ts';
import { createHandler } from '../../hosts/faces/http/handler.ts';
import { createDisk, openHttp } from '../../hosts/node/index.ts';
import { listen } from '../../hosts/node/serve.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { startNginx } from '../support/nginx.ts';
import { compare, convertImage } from '../support/qemu.ts';

const MIB = 1024 * 1024;
const DISK_BYTES = 5 * MIB + 512;
const TOKEN = 'correct-horse';
const PAGE = 'https://console.example';

let folder: string;
let disk: Disk;
const content = new Uint8Array(DISK_BYTES);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-handler-'));
  disk = await createDisk({ overlay: join(folder, 'vda.qcow2'), size: DISK_BYTES });
  content.set(makeContent('random', 1, 3 * MIB), MIB);
  await disk.write(MIB, content.subarray(MIB, 4 * MIB));
});
afterAll(async () => {
  await disk.close();
  await rm(folder, { recursive: true });
});

/** Lets requests reach a handler over a socket. */
async function served(
  options: Partial<HandlerOptions>,
  use: (ask: (path: string, init?: RequestInit) => Promise<Response>, url: string) => Promise<void>,
): Promise<void> {
  const listening = await listen(createHandler({ disks: { vda: disk }, token: TOKEN, ...options }));
  const ask = (path: string, init: RequestInit = {}): Promise<Response> =>
    fetch(`${listening.url}${path}`, {
      ...init,
      headers: { Authorization: `Bearer ${TOKEN}`, ...(init.headers as Record<string, string>) },
    });
  try {
    await use(ask, listening.url);
  } finally {
    await listening.close();
  }
}

const range = (text: string, more: Record<string, string> = {}): RequestInit => ({
  headers: { Range: text, ...more },
});

describe('the data of a served disk', () => {
  it('comes whole, and by ranges of each form', () =>
    served({}, async (ask) => {
      const whole = await ask('/disks/vda/data');
      expect([
        whole.status,
        whole.headers.get('Content-Length'),
        whole.headers.get('Accept-Ranges'),
      ]).toEqual([200, String(DISK_BYTES), 'bytes']);
      expect(Buffer.from(await whole.arrayBuffer()).equals(content)).toBe(true);
      for (const [text, first, end] of [
        ['bytes=0-0', 0, 1],
        [`bytes=${MIB - 7}-${3 * MIB}`, MIB - 7, 3 * MIB + 1],
        [`bytes=${5 * MIB}-`, 5 * MIB, DISK_BYTES],
        ['bytes=-600', DISK_BYTES - 600, DISK_BYTES],
        ['bytes=-99999999', 0, DISK_BYTES],
        [`bytes=100-99999999`, 100, DISK_BYTES],
      ] as const) {
        const part = await ask('/disks/vda/data', range(text));
        expect([part.status, part.headers.get('Content-Range')]).toEqual([
          206,
          `bytes ${first}-${end - 1}/${DISK_BYTES}`,
        ]);
        expect(Buffer.from(await part.arrayBuffer()).equals(content.subarray(first, end))).toBe(
          true,
        );
      }
    }));

  it('is told by HEAD without being read', () =>
    served({}, async (ask) => {
      const head = await ask('/disks/vda/data', { method: 'HEAD' });
      expect([head.status, head.headers.get('Content-Length'), (await head.text()).length]).toEqual(
        [200, String(DISK_BYTES), 0],
      );
      const part = await ask('/disks/vda/data', { ...range('bytes=1-2'), method: 'HEAD' });
      // RFC 9110, section 14.2: ranges are of GET alone.
      expect([
        part.status,
        part.headers.get('Content-Length'),
        part.headers.get('Content-Range'),
      ]).toEqual([200, String(DISK_BYTES), null]);
    }));

  it('has an ETag that changes with the content, and conditions that follow it', () =>
    served({}, async (ask) => {
      const before = (await ask('/disks/vda/data', { method: 'HEAD' })).headers.get('ETag')!;
      expect(before).toMatch(/^"[0-9a-f]{32}"$/);
      expect(
        (await ask('/disks/vda/data', { headers: { 'If-None-Match': `"x", W/${before}` } })).status,
      ).toBe(304);
      expect(
        (await ask('/disks/vda/data', { headers: { 'If-None-Match': '"x"' }, method: 'HEAD' }))
          .status,
      ).toBe(200);
      expect(
        (await ask('/disks/vda/data', range('bytes=0-0', { 'If-Range': before }))).status,
      ).toBe(206);
      for (const tags of ['*', before, `"x", ${before}`])
        expect(
          (await ask('/disks/vda/data', range('bytes=0-0', { 'If-Match': tags }))).status,
        ).toBe(206);
      for (const tags of ['"x"', `W/${before}`]) {
        const other = await ask('/disks/vda/data', { headers: { 'If-Match': tags } });
        expect([other.status, ((await other.json()) as { code: string }).code]).toEqual([
          412,
          'ECHANGED',
        ]);
      }
      await disk.stream();
      expect(
        (await ask('/disks/vda/data', range('bytes=0-0', { 'If-Range': before }))).status,
      ).toBe(206);
      content.set([7], 0);
      await disk.write(0, Uint8Array.of(7));
      const changed = await ask('/disks/vda/data', range('bytes=0-0', { 'If-Range': before }));
      expect([changed.status, changed.headers.get('ETag') === before]).toEqual([200, false]);
      await changed.body?.cancel();
    }));

  it('keeps its ETag across handlers, by what the caller or the disk itself tells of it', async () => {
    const tags: (string | null)[] = [];
    for (const identity of ['one', 'one', 'two', undefined, undefined]) {
      await served({ identity: () => identity }, async (ask) => {
        tags.push((await ask('/disks/vda/data', { method: 'HEAD' })).headers.get('ETag'));
      });
    }
    expect(tags[0]).toBe(tags[1]);
    expect(tags[3]).toBe(tags[4]);
    expect(new Set(tags).size).toBe(3);
  });

  // Without a socket, whose buffers could have taken the whole body before the change.
  it('is cut off when the disk is changed in the middle of a body', async () => {
    const handler = createHandler({ disks: { vda: disk }, authorize: () => true });
    const response = await handler(new Request('http://localhost/disks/vda/data'));
    const reader = response.body!.getReader();
    await reader.read();
    content.set([9], DISK_BYTES - 1);
    await disk.write(DISK_BYTES - 1, Uint8Array.of(9));
    await expect(
      (async () => {
        while (!(await reader.read()).done);
      })(),
    ).rejects.toMatchObject({ code: 'ECHANGED' });
  });

  it('is a base for another disk', () =>
    served({}, async (_, url) => {
      const base = await openHttp(`${url}/disks/vda/data`, {
        headers: { Authorization: `Bearer ${TOKEN}` },
      });
      const copy = await createDisk({ overlay: join(folder, 'copy.qcow2'), base });
      await copy.stream();
      expect(Buffer.from(await copy.read(0, copy.size)).equals(content)).toBe(true);
      await copy.close();
    }));
});

describeWithPeer(['qemu-img', 'qemu-curl'], 'a served disk, read by QEMU', () => {
  it('is the same disk', () =>
    served({ authorize: () => true }, async (_, url) => {
      // With several requests in flight, QEMU 7.2 hangs now and then, with any server.
      await convertImage(`${url}/disks/vda/data`, join(folder, 'qemu.qcow2'), {
        from: 'raw',
        coroutines: 1,
      });
      expect(
        (
          await compare(join(folder, 'qemu.qcow2'), join(folder, 'copy.qcow2'), {
            formatA: 'qcow2',
            formatB: 'qcow2',
          })
        ).identical,
      ).toBe(true);
    }));
});

describeWithPeer(['nginx'], 'a served disk behind nginx', () => {
  it('tells its events at once', () =>
    served({}, async (_, url) => {
      const nginx = await startNginx({
        root: folder,
        extra: `location /disks/ { proxy_pass ${url}; }`,
      });
      const answer = await fetch(`${nginx.url}/disks/vda/events`, {
        headers: { Authorization: `Bearer ${TOKEN}` },
      });
      const events = answer.body!.getReader();
      expect((await events.read()).done).toBe(false);
      await events.cancel();
      await nginx.stop();
    }));
});

describe('what is served', () => {
  const shape = { device: 'vda', size: DISK_BYTES, clusterSize: 65536 };

  it('is listed, and told of', () =>
    served({}, async (ask) => {
      expect(await (await ask('/disks')).json()).toEqual([shape]);
      expect(await (await ask('/disks/vda')).json()).toEqual({ ...shape, remaining: 0 });
    }));

  it('is not listed where disks are found by name', () =>
    served({ disks: () => disk }, async (ask) => {
      const answer = await ask('/disks');
      expect([answer.status, await answer.json()]).toMatchObject([422, { code: 'EUNSUPPORTED' }]);
    }));

  it('has a page for people, to which a policy allows its own scripts and styles only', () =>
    served({ page: '<style>a{}</style><script type="module">1</script>' }, async (ask) => {
      for (const method of ['GET', 'HEAD']) {
        const page = await ask('/', { method, headers: { Authorization: '' } });
        expect([page.status, await page.text()]).toEqual([
          200,
          method === 'GET' ? '<style>a{}</style><script type="module">1</script>' : '',
        ]);
        const digest = (text: string): string =>
          `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
        expect(page.headers.get('Content-Security-Policy')!.split('; ')).toEqual(
          expect.arrayContaining([
            "default-src 'none'",
            `script-src ${digest('1')}`,
            `style-src ${digest('a{}')}`,
            "connect-src 'self'",
            "frame-ancestors 'none'",
          ]),
        );
      }
      expect((await ask('/', { method: 'POST' })).status).toBe(405);
      expect((await ask('/', { headers: { Origin: PAGE } })).status).toBe(403);
      expect((await ask('/disks', { headers: { Authorization: '' } })).status).toBe(401);
    }));

  it('has its page for those only whom the own check lets in', () =>
    served({ page: '<p>', token: undefined, authorize: () => false }, async (ask) => {
      expect((await ask('/')).status).toBe(403);
    }));
});

describe('the job of a served disk', () => {
  it('is started, watched and aborted', () =>
    served({}, async (ask) => {
      const base = {
        size: 4 * MIB,
        name: 'base',
        read: async (_: number, into: Uint8Array) => void into.fill(5),
        close: () => {},
      };
      const far = await createDisk({ overlay: join(folder, 'far.qcow2'), base });
      await served({ disks: { vdb: far } }, async (ask) => {
        expect(await (await ask('/disks/vdb/info')).json()).toMatchObject({ code: 'ENOENT' });
        const events = (await ask('/disks/vdb/events'))
          .body!.pipeThrough(new TextDecoderStream())
          .getReader();
        expect(await events.read()).toMatchObject({ value: ': connected\n\n' });
        const started = await ask('/disks/vdb/stream', {
          method: 'POST',
          body: JSON.stringify({ nonblock: true, speed: 1 }),
        });
        expect([started.status, await started.json()]).toMatchObject([
          202,
          { status: 1, length: 4 * MIB, speed: 1 },
        ]);
        expect(await (await ask('/disks/vdb/stream', { method: 'POST' })).json()).toMatchObject({
          code: 'EBUSY',
        });
        expect(await (await ask('/disks/vdb/info')).json()).toMatchObject({ status: 1 });
        for (let time = 0; time < 2; time++)
          expect(await (await ask('/disks/vdb/pause', { method: 'POST' })).json()).toMatchObject({
            status: 1,
            paused: true,
          });
        expect(await (await ask('/disks/vdb/resume', { method: 'POST' })).json()).toMatchObject({
          paused: false,
        });
        const speed = { method: 'POST', body: '{"speed":2}' };
        expect(await (await ask('/disks/vdb/speed', speed)).json()).toMatchObject({ speed: 2 });
        expect(await (await ask('/disks/vdb/abort', { method: 'POST' })).json()).toMatchObject({
          status: 2,
          reason: 'aborted',
        });
        let told = '';
        while (!told.includes('event: failed')) told += (await events.read()).value;
        expect(told).toMatch(/event: failed\ndata: {.*"reason":"aborted".*}\n\n$/);
        await events.cancel();
        const info = (await (
          await ask('/disks/vdb/stream', {
            method: 'POST',
            body: JSON.stringify({ keepBase: true }),
          })
        ).json()) as StreamInfo;
        expect(info).toMatchObject({ status: 0, remaining: 0 });
      });
      await far.close();
      expect((await ask('/disks/vdb/info')).status).toBe(404);
    }));

  it('goes on when it has paused itself', async () => {
    let there = false;
    const read = async (_: number, into: Uint8Array): Promise<void> => {
      if (!there) throw new Error('the cable is out');
      into.fill(5);
    };
    const far = await createDisk({
      overlay: join(folder, 'paused.qcow2'),
      base: { size: 4 * MIB, name: 'base', read, close: () => {} },
      baseFormat: 'raw',
      unpack: false,
    });
    await served({ disks: { vdb: far } }, async (ask) => {
      expect((await ask('/disks/vdb/resume', { method: 'POST' })).status).toBe(404);
      const paused = new Promise((resolve) =>
        far.addEventListener('paused', resolve, { once: true }),
      );
      const ended = ask('/disks/vdb/stream', { method: 'POST', body: '{"onError":"stop"}' });
      await paused;
      expect(await (await ask('/disks/vdb/info')).json()).toMatchObject({
        status: 1,
        paused: true,
        error: { message: expect.stringMatching(/cable/) },
      });
      there = true;
      const resumed = await ask('/disks/vdb/resume', { method: 'POST' });
      expect([resumed.status, await resumed.json()]).toMatchObject([200, { paused: false }]);
      expect(await (await ended).json()).toMatchObject({ status: 0, remaining: 0 });
    });
    await far.close();
  });

  it('ends with the request when it is a blocking one', async () => {
    const base = {
      size: 4 * MIB,
      name: 'base',
      read: async (_: number, into: Uint8Array) => void into.fill(5),
      close: () => {},
    };
    const far = await createDisk({ overlay: join(folder, 'gone.qcow2'), base });
    const failed = new Promise<StreamInfo>((resolve) =>
      far.addEventListener('failed', ({ detail }) => resolve(detail)),
    );
    await served({ disks: { vdb: far } }, async (ask) => {
      const begun = new Promise((resolve) =>
        far.addEventListener('progress', resolve, { once: true }),
      );
      const gone = new AbortController();
      const answer = ask('/disks/vdb/stream', {
        method: 'POST',
        body: '{"speed":1}',
        signal: gone.signal,
      }).catch((error: Error) => error);
      await begun;
      gone.abort();
      await answer;
      expect((await failed).reason).toBe('aborted');
    });
    await far.close();
  });

  it('cuts off who does not take its events, and leaves nothing behind', async () => {
    const told = new EventTarget();
    const heard = new Set<unknown>();
    const disk = {
      info: () => Promise.reject(new Error('no job')),
      addEventListener(type: string, listener: EventListener) {
        heard.add(listener);
        told.addEventListener(type, listener);
      },
      removeEventListener(type: string, listener: EventListener) {
        heard.delete(listener);
        told.removeEventListener(type, listener);
      },
    } as unknown as Disk;
    const response = await createHandler({ disks: { vda: disk }, authorize: () => true })(
      new Request('http://localhost/disks/vda/events'),
    );
    for (let i = 0; heard.size > 0; i++) {
      if (i > 1000) throw new Error('events pile up without end');
      told.dispatchEvent(new CustomEvent('progress', { detail: { remaining: i } }));
    }
    expect((await response.text()).match(/event: progress/g)!.length).toBeGreaterThan(100);
  });

  it('maps the disk', () =>
    served({}, async (ask) => {
      const extents = (await (
        await ask(`/disks/vda/map?offset=${MIB}&length=${MIB}&depth=1`)
      ).json()) as Extent[];
      expect([extents[0].offset, extents.reduce((sum, { length }) => sum + length, 0)]).toEqual([
        MIB,
        MIB,
      ]);
    }));
});

describe('what is refused', () => {
  const refusals: [
    what: string,
    path: string,
    init: RequestInit,
    status: number,
    code: string,
    message: RegExp,
  ][] = [
    ['a path that leads nowhere', '/', {}, 404, 'ENOENT', /nothing at/],
    ['a call that is none', '/disks/vda/constructor', {}, 404, 'ENOENT', /nothing at/],
    ['a disk that is not there', '/disks/vdz/info', {}, 404, 'ENOENT', /vdz/],
    [
      'a disk named after what every object has',
      '/disks/constructor/info',
      {},
      404,
      'ENOENT',
      /constructor/,
    ],
    ['a name that cannot be decoded', '/disks/%ff/info', {}, 400, 'EINVAL', /%ff/],
    ['another method', '/disks/vda/data', { method: 'PUT', body: 'x' }, 405, 'EINVAL', /GET, HEAD/],
    ['starting a job by GET', '/disks/vda/stream', {}, 405, 'EINVAL', /POST/],
    [
      'no token',
      '/disks/vda/info',
      { headers: { Authorization: '' } },
      401,
      'EACCES',
      /token is needed/,
    ],
    [
      'another token',
      '/disks/vda/info',
      { headers: { Authorization: 'Bearer correct-house' } },
      401,
      'EACCES',
      /not the right one/,
    ],
    [
      'a foreign page',
      '/disks/vda/info',
      { headers: { Origin: 'https://evil.example' } },
      403,
      'EACCES',
      /evil/,
    ],
    [
      'a range past the end',
      '/disks/vda/data',
      range(`bytes=${DISK_BYTES}-`),
      416,
      'EINVAL',
      /outside/,
    ],
    ['a range of nothing', '/disks/vda/data', range('bytes=-0'), 416, 'EINVAL', /outside/],
    [
      'several ranges',
      '/disks/vda/data',
      range('bytes=0-1,5-6'),
      416,
      'EUNSUPPORTED',
      /more than one range/,
    ],
    ['a range that is none', '/disks/vda/data', range('bytes=abc'), 400, 'EINVAL', /abc/],
    [
      'a range that ends before it begins',
      '/disks/vda/data',
      range('bytes=9-3'),
      400,
      'EINVAL',
      /before it begins/,
    ],
    [
      'a body that is not JSON',
      '/disks/vda/stream',
      { method: 'POST', body: '{' },
      400,
      'EINVAL',
      /not JSON/,
    ],
    [
      'a body that is no object',
      '/disks/vda/stream',
      { method: 'POST', body: '[1]' },
      400,
      'EINVAL',
      /object/,
    ],
    [
      'an option that is none',
      '/disks/vda/stream',
      { method: 'POST', body: '{"bs":1}' },
      400,
      'EINVAL',
      /'bs'/,
    ],
    [
      'an option of another type',
      '/disks/vda/stream',
      { method: 'POST', body: '{"offset":"0"}' },
      400,
      'EINVAL',
      /offset.*number/,
    ],
    [
      'a value that cannot be',
      '/disks/vda/stream',
      { method: 'POST', body: '{"offset":-1}' },
      400,
      'EINVAL',
      /offset/,
    ],
    [
      'a body without end',
      '/disks/vda/stream',
      { method: 'POST', body: ' '.repeat(70_000) },
      413,
      'EINVAL',
      /longer/,
    ],
    ['resuming by GET', '/disks/vda/resume', {}, 405, 'EINVAL', /POST/],
    ['its shape by POST', '/disks/vda', { method: 'POST' }, 405, 'EINVAL', /GET/],
    ['the list of disks by POST', '/disks', { method: 'POST' }, 405, 'EINVAL', /GET/],
    ['pausing no job', '/disks/vda/pause', { method: 'POST' }, 404, 'ENOENT', /no job/],
    [
      'an order that would be a file of the server',
      '/disks/vda/stream',
      { method: 'POST', body: '{"order":"/etc/passwd"}' },
      400,
      'EINVAL',
      /order is 'sequential' or 'profile'/,
    ],
    ['no speed', '/disks/vda/speed', { method: 'POST' }, 400, 'EINVAL', /not JSON/],
    [
      'a speed that is a text',
      '/disks/vda/speed',
      { method: 'POST', body: '{"speed":"8M"}' },
      400,
      'EINVAL',
      /"8M"/,
    ],
    [
      'more than a speed',
      '/disks/vda/speed',
      { method: 'POST', body: '{"speed":1,"paused":true}' },
      400,
      'EINVAL',
      /paused/,
    ],
    [
      'the speed of no job',
      '/disks/vda/speed',
      { method: 'POST', body: '{"speed":1}' },
      404,
      'ENOENT',
      /no job/,
    ],
    [
      'aborting when there is no job',
      '/disks/vda/abort',
      { method: 'POST' },
      404,
      'ENOENT',
      /no job/,
    ],
    ['a map of what is not the disk', '/disks/vda/map?offset=1e3', {}, 400, 'EINVAL', /offset/],
    [
      'a map from behind the end',
      '/disks/vda/map?offset=9999999999',
      {},
      400,
      'EINVAL',
      new RegExp(`cannot map 0 bytes at 9999999999: the disk has ${DISK_BYTES} bytes`),
    ],
    [
      'a map past the end',
      `/disks/vda/map?offset=1&length=${DISK_BYTES}`,
      {},
      400,
      'EINVAL',
      /map/,
    ],
  ];
  for (const [what, path, init, status, code, message] of refusals) {
    it(what, () =>
      served({}, async (ask) => {
        const response = await ask(path, init);
        const { reason, ...error } = (await response.json()) as Record<string, unknown>;
        expect([response.status, error]).toEqual([
          status,
          { code, message: expect.stringMatching(message) },
        ]);
        expect(reason).toBe(what.startsWith('a disk ') ? 'no-such-disk' : undefined);
      }),
    );
  }

  it('what is no request at all', () =>
    served({}, async (_, url) => {
      const { hostname, port } = new URL(url);
      for (const options of [{ method: 'TRACE' }, { headers: { Host: 'not a name' } }]) {
        const { status, body } = await new Promise<{ status?: number; body: string }>(
          (resolve, reject) => {
            request({ hostname, port, path: '/disks/vda/info', ...options }, async (answer) => {
              let body = '';
              for await (const text of answer.setEncoding('utf8')) body += text;
              resolve({ status: answer.statusCode, body });
            })
              .on('error', reject)
              .end();
          },
        );
        expect([status, JSON.parse(body)]).toEqual([
          400,
          { code: 'EINVAL', message: expect.stringMatching(/no such request/) },
        ]);
      }
    }));

  it('a body that nobody reads, or not to its end, and the next request of the connection is answered', () =>
    served({}, async (_, url) => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      const post = (headers: Record<string, string>): Promise<number | undefined> =>
        new Promise((resolve, reject) => {
          request(`${url}/disks/vda/stream`, { method: 'POST', agent, headers }, (answer) =>
            answer.on('end', () => resolve(answer.statusCode)).resume(),
          )
            .on('error', reject)
            .end(Buffer.alloc(3 * MIB));
        });
      expect(await post({})).toBe(401);
      expect(await post({ Authorization: `Bearer ${TOKEN}` })).toBe(413);
      expect(await post({})).toBe(401);
      agent.destroy();
    }));

  it('a URL that other servers hand on, though it is none', async () => {
    const handler = createHandler({ disks: { vda: disk }, authorize: () => true });
    const response = await handler({
      method: 'GET',
      url: 'http://not a name/disks/vda/info',
      headers: new Headers(),
    } as Request);
    expect([response.status, await response.json()]).toEqual([
      400,
      { code: 'EINVAL', message: expect.stringMatching(/not a URL/) },
    ]);
  });

  it('everybody, when neither a token nor a check is given', () =>
    served({ token: undefined }, async (ask) => {
      expect((await ask('/disks/vda/info')).status).toBe(403);
      expect((await ask('/disks/vda/info', { headers: { Authorization: 'Bearer ' } })).status).toBe(
        403,
      );
    }));

  it("whom the caller's own check does not let in", () =>
    served({ authorize: (request) => request.headers.has('X-Key') }, async (ask) => {
      expect((await ask('/disks/vda/data', { method: 'HEAD' })).status).toBe(403);
      expect(
        (await ask('/disks/vda/data', { method: 'HEAD', headers: { 'X-Key': '1' } })).status,
      ).toBe(200);
    }));
});

describe('pages of listed origins', () => {
  it('may use it, after asking, and see what they need', () =>
    served({ origins: [PAGE] }, async (ask) => {
      const headers = {
        Origin: PAGE,
        'Access-Control-Request-Method': 'GET',
        'Access-Control-Request-Headers': 'range,authorization',
        Authorization: '',
      };
      const asked = await ask('/disks/vda/data', { method: 'OPTIONS', headers });
      expect([asked.status, asked.headers.get('Access-Control-Allow-Origin')]).toEqual([204, PAGE]);
      expect(asked.headers.get('Access-Control-Allow-Headers')).toMatch(/Authorization.*Range/);
      const data = await ask('/disks/vda/data', range('bytes=0-0', { Origin: PAGE }));
      expect([
        data.status,
        data.headers.get('Access-Control-Allow-Origin'),
        data.headers.get('Vary'),
      ]).toEqual([206, PAGE, 'Origin']);
      expect(data.headers.get('Access-Control-Expose-Headers')).toMatch(/Content-Range, ETag/);
      const foreign = await ask('/disks/vda/data', {
        method: 'OPTIONS',
        headers: { ...headers, Origin: 'https://evil.example' },
      });
      expect(foreign.headers.get('Access-Control-Allow-Origin')).toBeNull();
      const refused = await ask('/disks/vda/info', {
        headers: { Origin: PAGE, Authorization: '' },
      });
      expect([refused.status, refused.headers.get('Access-Control-Allow-Origin')]).toEqual([
        401,
        PAGE,
      ]);
    }));

  it.each([
    '*',
    'console.example',
    'https://console.example/',
    'https://console.example:443',
    'https://Console.example',
    'vm.qcow2',
  ])('are not listed as what no browser sends: %s', (origin) => {
    expect(() => createHandler({ disks: {}, origins: [origin] })).toThrow(
      expect.objectContaining({ code: 'EINVAL', message: expect.stringContaining(`'${origin}'`) }),
    );
    expect(() =>
      createHandler({
        disks: {},
        origins: [PAGE, 'http://localhost:8080', 'http://[::1]', 'chrome-extension://abc'],
      }),
    ).not.toThrow();
  });
});
