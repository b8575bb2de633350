/**
 * Disks served by a Durable Object in workerd: what a first read costs, jobs that outlive their
 * request, bases in a bucket.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Miniflare } from 'miniflare';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { StreamInfo } from '../../hosts/api/job.ts';
import { encodeProfile } from '../../hosts/profiles/format.ts';
import { makeContent } from '../fixtures/content.ts';
import type { ObjectServer } from '../http/object-server.ts';
import { serveObject } from '../http/object-server.ts';
import { startWorker } from './worker.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const TOKEN = 'sesame';
const CONTENT = makeContent('random', 8, 6 * MIB);
/** What the handler may cost a machine that boots through it, for its first sector. */
const FIRST_READ_REQUESTS_MAX = 3;
const START_MS_MAX = 60_000;

let base: ObjectServer;
let worker: Miniflare;
const ask = (
  path: string,
  init: { method?: string; body?: string; headers?: Record<string, string> } = {},
) =>
  worker.dispatchFetch(`http://edge${path}`, {
    ...init,
    headers: { Authorization: `Bearer ${TOKEN}`, ...init.headers },
  });

/**
 * The part of Miniflare's view of the bucket that is used here: its own types need those of the
 * platform.
 */
interface TestBucket {
  put(key: string, value: Uint8Array): Promise<unknown>;
  list(options: { prefix: string }): Promise<{ objects: { key: string }[] }>;
}
const bucketOf = async (of: Miniflare = worker): Promise<TestBucket> =>
  (await of.getR2Bucket('BUCKET')) as unknown as TestBucket;

/** Reads a disk's events until the job has completed. */
async function untilCompleted(worker: Miniflare, device: string): Promise<void> {
  const response = await worker.dispatchFetch(`http://edge/disks/${device}/events`, {
    headers: { Authorization: `Bearer ${TOKEN}` },
  });
  const events = response.body!.getReader() as ReadableStreamDefaultReader<Uint8Array>;
  const decoder = new TextDecoder();
  let told = '';
  while (!/event: completed|event: info\ndata: {"status":0/.test(told))
    told += decoder.decode((await events.read()).value, { stream: true });
  await events.cancel();
}

beforeAll(async () => {
  base = await serveObject(CONTENT);
  worker = await startWorker(new URL('machine.ts', import.meta.url), {
    object: 'Machine',
    bindings: { BASE: base.url, TOKEN },
  });
  await (await bucketOf()).put('base.raw', CONTENT);
}, START_MS_MAX);
afterAll(async () => {
  await worker.dispose();
  await base.stop();
});

describe('a disk in a Durable Object', () => {
  it('costs the base few requests for its first read', async () => {
    const first = await ask('/disks/vda/data', {
      headers: { Range: `bytes=${3 * MIB}-${3 * MIB + 511}` },
    });
    expect([first.status, first.headers.get('Content-Range')]).toEqual([
      206,
      `bytes ${3 * MIB}-${3 * MIB + 511}/${CONTENT.length}`,
    ]);
    expect(
      Buffer.from(await first.arrayBuffer()).equals(CONTENT.subarray(3 * MIB, 3 * MIB + 512)),
    ).toBe(true);
    expect(base.ranges.length).toBeLessThanOrEqual(FIRST_READ_REQUESTS_MAX);
  });

  it('refuses whoever has no token, by name', async () => {
    const refused = await ask('/disks/vda/info', { headers: { Authorization: 'Bearer guess' } });
    expect([refused.status, await refused.json()]).toMatchObject([401, { code: 'EACCES' }]);
    expect(await (await ask('/disks/vdz/info')).json()).toMatchObject({ code: 'ENOENT' });
  });

  it('streams on when the request that started the job has ended', async () => {
    const started = await ask('/disks/vda/stream', {
      method: 'POST',
      body: JSON.stringify({ nonblock: true }),
    });
    expect(started.status).toBe(202);
    await untilCompleted(worker, 'vda');
    expect((await (await ask('/disks/vda/info')).json()) as StreamInfo).toMatchObject({
      status: 0,
      remaining: 0,
    });
    const requests = base.ranges.length;
    const whole = await ask('/disks/vda/data');
    expect(whole.headers.get('Content-Length')).toBe(String(CONTENT.length));
    expect(Buffer.from(await whole.arrayBuffer()).equals(CONTENT)).toBe(true);
    expect(base.ranges.length).toBe(requests);
  });

  it('reads a base in the bucket, and keeps its overlay there', async () => {
    const part = await ask('/disks/vdb/data', { headers: { Range: 'bytes=-1000' } });
    expect(Buffer.from(await part.arrayBuffer()).equals(CONTENT.subarray(-1000))).toBe(true);
    expect(await (await ask('/disks/vdb/stream', { method: 'POST' })).json()).toMatchObject({
      status: 0,
      remaining: 0,
    });
    const whole = await ask('/disks/vdb/data');
    expect(Buffer.from(await whole.arrayBuffer()).equals(CONTENT)).toBe(true);
    const bucket = await bucketOf();
    expect((await bucket.list({ prefix: 'vdb/' })).objects.map(({ key }) => key)).toContain(
      'vdb/manifest',
    );
  });
});

describe('a disk with a boot profile beside its base', () => {
  it(
    'is warmed by the first request: what the boot reads next is there',
    async () => {
      const place = 4 * MIB;
      const boot = [{ offset: place, length: 128 * KIB, ms: 0 }];
      const of = { base: { size: CONTENT.length }, diskSize: CONTENT.length };
      const profile = await encodeProfile({ ...of, seconds: 1, boots: 1, ranges: boot });
      const last = profile.length - 1;
      const asked: string[] = [];
      const server = await serveObject(CONTENT, (ask) => {
        asked.push(`${ask.request.url} ${ask.first}`);
        if (ask.request.url !== '/disk.img.profile') return ask.answer();
        const range = `bytes 0-${last}/${profile.length}`;
        ask.answer({ 'Content-Range': range, 'Content-Length': profile.length }, profile);
      });
      const machine = await startWorker(new URL('machine.ts', import.meta.url), {
        object: 'Machine',
        bindings: { BASE: server.url, TOKEN },
      });
      try {
        const read = async (range: string): Promise<Uint8Array> => {
          const headers = { Authorization: `Bearer ${TOKEN}`, Range: `bytes=${range}` };
          const answer = await machine.dispatchFetch('http://edge/disks/vdc/data', { headers });
          return new Uint8Array(await answer.arrayBuffer());
        };
        await read('0-511');
        await vi.waitFor(() => expect(asked).toContain(`/disk.img ${place}`), START_MS_MAX);
        const bytes = await read(`${place}-${place + 128 * KIB - 1}`);
        expect(Buffer.from(bytes).equals(CONTENT.subarray(place, place + 128 * KIB))).toBe(true);
        const about = asked.filter((ask) => Number(ask.split(' ')[1]) >= place);
        expect(about).toEqual([`/disk.img ${place}`]);
        expect(asked.filter((ask) => ask.includes('.profile'))).toHaveLength(1);
      } finally {
        await machine.dispose();
        await server.stop();
      }
    },
    START_MS_MAX,
  );
});

describe('a job whose object is gone', () => {
  it(
    'is taken up again by alarms, without a request for it, though its base is away at first',
    async () => {
      const persist = await mkdtemp(join(tmpdir(), 'millrace-edge-'));
      let state: 'stalled' | 'away' | 'there' = 'stalled';
      const slow = await serveObject(CONTENT, (ask) => {
        if (state === 'there' || ask.number === 0) ask.answer();
        if (state !== 'away') return;
        ask.refuse(404);
        state = 'there';
      });
      const options = { object: 'Machine', bindings: { BASE: slow.url, TOKEN }, persist };
      const headers = { Authorization: `Bearer ${TOKEN}` };
      let machine = await startWorker(new URL('machine.ts', import.meta.url), options);
      try {
        const started = await machine.dispatchFetch('http://edge/disks/vda/stream', {
          method: 'POST',
          headers,
          body: '{"nonblock":true}',
        });
        expect(started.status).toBe(202);
        await slow.arrived(2);
        await machine.dispose();
        state = 'away';
        const requests = slow.ranges.length;
        machine = await startWorker(new URL('machine.ts', import.meta.url), options);
        // The object wakes by this, and opens no disk.
        expect(
          (await machine.dispatchFetch('http://edge/disks/nobody/info', { headers })).status,
        ).toBe(404);
        await slow.arrived(requests + 1);
        // It knows of no job until its second alarm has come.
        await untilCompleted(machine, 'vda');
        const info = await machine.dispatchFetch('http://edge/disks/vda/info', { headers });
        expect((await info.json()) as StreamInfo).toMatchObject({ status: 0, remaining: 0 });
      } finally {
        await machine.dispose();
        await slow.stop();
        await rm(persist, { recursive: true });
      }
    },
    START_MS_MAX,
  );
});

describe('a job whose object is gone, asked for before any alarm', () => {
  const headers = { Authorization: `Bearer ${TOKEN}` };

  it(
    'goes on, is told of and aborted as if nothing had been, and is then gone for good',
    async () => {
      const persist = await mkdtemp(join(tmpdir(), 'millrace-edge-'));
      let away = false;
      const slow = await serveObject(CONTENT, (ask) => {
        if (away) ask.refuse(404);
        else if (ask.first === 0) ask.answer();
      });
      const options = { object: 'Machine', bindings: { BASE: slow.url, TOKEN }, persist };
      const whenStarted = async (
        act: (
          tell: (call: string, method?: string, body?: string) => Promise<unknown>,
        ) => Promise<void>,
      ): Promise<void> => {
        const machine = await startWorker(new URL('machine.ts', import.meta.url), options);
        await act(async (call, method = 'GET', body) =>
          (
            await machine.dispatchFetch(`http://edge/disks/vda/${call}`, { method, headers, body })
          ).json(),
        ).finally(() => machine.dispose());
      };
      try {
        await whenStarted(async (tell) =>
          expect(await tell('stream', 'POST', '{"nonblock":true,"speed":7777777}')).toMatchObject({
            status: 1,
          }),
        );
        await whenStarted(async (tell) => {
          expect(await tell('info')).toMatchObject({ status: 1, speed: 7777777 });
          expect(await tell('pause', 'POST')).toMatchObject({ status: 1, paused: true });
          expect(await tell('speed', 'POST', '{"speed":123456}')).toMatchObject({ speed: 123456 });
        });
        await whenStarted(async (tell) => {
          expect(await tell('info')).toMatchObject({ status: 1, paused: true, speed: 123456 });
          expect(await tell('resume', 'POST')).toMatchObject({ paused: false });
          expect(await tell('speed', 'POST', '{"speed":7777777}')).toMatchObject({ status: 1 });
          expect(await tell('abort', 'POST')).toMatchObject({ status: 2, reason: 'aborted' });
        });
        await whenStarted(async (tell) => {
          expect(await tell('info')).toMatchObject({
            status: 2,
            reason: 'aborted',
            speed: 7777777,
          });
          expect(await tell('stream', 'POST', '{"nonblock":true}')).toMatchObject({ status: 1 });
        });
        away = true;
        await whenStarted(async (tell) =>
          expect(await tell('abort', 'POST')).toMatchObject({
            code: 'ENOENT',
            message: expect.stringMatching(/404/),
          }),
        );
        away = false;
        await whenStarted(async (tell) =>
          expect(await tell('info')).toMatchObject({
            code: 'ENOENT',
            message: expect.stringMatching(/no job/),
          }),
        );
      } finally {
        await slow.stop();
        await rm(persist, { recursive: true });
      }
    },
    START_MS_MAX,
  );
});

/**
 * A worker whose alarms come when `tell` says so, over a base that gives its first page, and of the
 * rest what it does not refuse.
 */
async function withAlarms(
  act: (
    tell: (path: string, body?: string) => Promise<Told>,
    far: { refused?: number },
  ) => Promise<void>,
): Promise<void> {
  const far: { refused?: number } = {};
  const server = await serveObject(CONTENT, (ask) => {
    if (far.refused === undefined || (ask.first === 0 && !ask.request.url!.endsWith('.missing')))
      ask.answer();
    else ask.refuse(far.refused);
  });
  const machine = await startWorker(new URL('alarms.ts', import.meta.url), {
    object: 'Alarms',
    bindings: { BASE: server.url, TOKEN },
  });
  const tell = async (path: string, body?: string): Promise<Told> => {
    const init = body === undefined ? {} : { method: 'POST', body };
    return (await (
      await machine.dispatchFetch(`http://edge/${path}`, {
        ...init,
        headers: { Authorization: `Bearer ${TOKEN}` },
      })
    ).json()) as Told;
  };
  try {
    await act(tell, far);
  } finally {
    await machine.dispose();
    await server.stop();
  }
}

interface Told {
  /** Of an alarm: how long after it the next was asked for. */
  nextMs?: number;
}

describe('an alarm', () => {
  it(
    'comes soon for a job that began meanwhile, and leaves another alone whose pause has not ended',
    async () => {
      let refuse: (() => void) | undefined;
      let tries = 0;
      const far = await serveObject(CONTENT, (ask) => {
        if (ask.request.url!.endsWith('.missing')) {
          tries++;
          refuse = () => ask.refuse(404);
        } else if (ask.first === 0) ask.answer();
      });
      const machine = await startWorker(new URL('alarms.ts', import.meta.url), {
        object: 'Alarms',
        bindings: { BASE: far.url, TOKEN },
      });
      const tell = async (path: string, body?: string): Promise<{ nextMs?: number }> => {
        const init = body === undefined ? {} : { method: 'POST', body };
        return (await (
          await machine.dispatchFetch(`http://edge/${path}`, {
            ...init,
            headers: { Authorization: `Bearer ${TOKEN}` },
          })
        ).json()) as { nextMs?: number };
      };
      try {
        await tell('lost');
        const alarm = tell('alarm');
        await far.arrived(1);
        expect(await tell('disks/vda/stream', '{"nonblock":true}')).toMatchObject({ status: 1 });
        refuse!();
        // After so many tries, the pause of the other one takes 17 minutes.
        expect((await alarm).nextMs).toBeLessThan(60_000);
        await tell('disks/vda/abort', '');
        expect((await tell('alarm')).nextMs).toBeGreaterThan(60_000);
        expect(tries).toBe(1);
      } finally {
        await machine.dispose();
        await far.stop();
      }
    },
    START_MS_MAX,
  );

  it(
    'leaves a job alone that has paused itself, until it is resumed',
    () =>
      withAlarms(async (tell, far) => {
        far.refused = 404;
        const started = await tell('disks/vda/stream', '{"nonblock":true,"onError":"stop"}');
        expect(started).toMatchObject({ status: 1 });
        // It waits for the pause, not for its own time to end.
        expect((await tell('alarm')).nextMs).toBeGreaterThan(60_000);
        expect(await tell('disks/vda/info')).toMatchObject({
          status: 1,
          paused: true,
          error: { code: 'ENOENT' },
        });
        far.refused = undefined;
        expect(await tell('disks/vda/resume', '')).toMatchObject({ paused: false });
        expect((await tell('next')).nextMs).toBeLessThan(60_000);
        expect((await tell('alarm')).nextMs).toBeUndefined();
        expect(await tell('disks/vda/info')).toMatchObject({ status: 0, remaining: 0 });
      }),
    START_MS_MAX,
  );

  it(
    'comes no more for a job that was aborted, though its base lets nobody in',
    () =>
      withAlarms(async (tell, far) => {
        far.refused = 403;
        await tell('lost');
        expect((await tell('alarm')).nextMs).toBeGreaterThan(60_000);
        expect(await tell('disks/lost/abort', '')).toMatchObject({ code: 'EACCES' });
        expect((await tell('alarm')).nextMs).toBeUndefined();
      }),
    START_MS_MAX,
  );
});

describe('a disk whose object is gone', () => {
  it.each([
    ['vda', 'vda'],
    ['vdb', 'r2:vdb'],
  ])(
    'keeps the ETag of %s until somebody else has written to it',
    async (device, overlay) => {
      const persist = await mkdtemp(join(tmpdir(), 'millrace-edge-'));
      const etags: (string | null)[] = [];
      const headers = { Authorization: `Bearer ${TOKEN}` };
      const whenStarted = async (call?: string, method?: string): Promise<void> => {
        const machine = await startWorker(new URL('machine.ts', import.meta.url), {
          object: 'Machine',
          bindings: { BASE: base.url, TOKEN },
          persist,
        });
        await (await bucketOf(machine)).put('base.raw', CONTENT);
        try {
          if (call !== undefined)
            expect(
              (await machine.dispatchFetch(`http://edge/${call}`, { method, headers })).status,
            ).toBe(200);
          const data = await machine.dispatchFetch(`http://edge/disks/${device}/data`, {
            headers: { ...headers, Range: 'bytes=0-0' },
          });
          expect(data.status).toBe(206);
          await data.arrayBuffer();
          etags.push(data.headers.get('ETag'));
        } finally {
          await machine.dispose();
        }
      };
      await whenStarted();
      await whenStarted(`disks/${device}/stream`, 'POST');
      await whenStarted();
      expect(new Set(etags).size).toBe(1);
      await whenStarted(`write/${overlay}`);
      await whenStarted();
      expect(new Set(etags.slice(0, 3)).has(etags[3])).toBe(false);
      expect(etags[4]).toBe(etags[3]);
      await rm(persist, { recursive: true });
    },
    START_MS_MAX,
  );

  it(
    'is made anew when that was while its overlay was made',
    async () => {
      const persist = await mkdtemp(join(tmpdir(), 'millrace-edge-'));
      const options = { object: 'Machine', bindings: { BASE: base.url, TOKEN }, persist };
      const init = { headers: { Authorization: `Bearer ${TOKEN}`, Range: 'bytes=1000-1999' } };
      let machine = await startWorker(new URL('machine.ts', import.meta.url), {
        ...options,
        bindings: { ...options.bindings, STUCK: 'vdb/00000000' },
      });
      try {
        await (await bucketOf(machine)).put('base.raw', CONTENT);
        machine.dispatchFetch('http://edge/disks/vdb/data', init).catch(() => {});
        while ((await (await bucketOf(machine)).list({ prefix: 'vdb/' })).objects.length === 0)
          await new Promise(setImmediate);
        await machine.dispose();
        machine = await startWorker(new URL('machine.ts', import.meta.url), options);
        const part = await machine.dispatchFetch('http://edge/disks/vdb/data', init);
        expect(Buffer.from(await part.arrayBuffer()).equals(CONTENT.subarray(1000, 2000))).toBe(
          true,
        );
        await machine.dispose();
        machine = await startWorker(new URL('machine.ts', import.meta.url), options);
        expect((await machine.dispatchFetch('http://edge/disks/vdb/data', init)).status).toBe(206);
      } finally {
        await machine.dispose();
        await rm(persist, { recursive: true });
      }
    },
    START_MS_MAX,
  );

  it(
    'finds its base by the URL it was given, whose query opens it, and needs none when it stands alone',
    async () => {
      const persist = await mkdtemp(join(tmpdir(), 'millrace-edge-'));
      const signed = await serveObject(CONTENT, (ask) => {
        if (ask.request.url!.endsWith('?signature=1')) ask.answer();
        else ask.refuse(403);
      });
      const headers = { Authorization: `Bearer ${TOKEN}` };
      const whenStarted = async <T>(act: (machine: Miniflare) => Promise<T>): Promise<T> => {
        const options = {
          object: 'Machine',
          bindings: { BASE: `${signed.url}?signature=1`, TOKEN },
          persist,
        };
        const machine = await startWorker(new URL('machine.ts', import.meta.url), options);
        return act(machine).finally(() => machine.dispose());
      };
      const read = async (machine: Miniflare, from: number): Promise<void> => {
        const part = await machine.dispatchFetch('http://edge/disks/vda/data', {
          headers: { ...headers, Range: `bytes=${from}-${from + 999}` },
        });
        expect(part.status).toBe(206);
        expect(
          Buffer.from(await part.arrayBuffer()).equals(CONTENT.subarray(from, from + 1000)),
        ).toBe(true);
      };
      try {
        await whenStarted((machine) => read(machine, 0));
        await whenStarted(async (machine) => {
          await read(machine, 3 * MIB);
          const streamed = await machine.dispatchFetch('http://edge/disks/vda/stream', {
            method: 'POST',
            headers,
          });
          expect(await streamed.json()).toMatchObject({ status: 0, remaining: 0 });
        });
        const requests = signed.ranges.length;
        await whenStarted(async (machine) => {
          const info = await machine.dispatchFetch('http://edge/disks/vda/info', { headers });
          expect([info.status, await info.json()]).toMatchObject([
            200,
            { status: 0, remaining: 0, length: CONTENT.length },
          ]);
          await read(machine, 5 * MIB);
        });
        expect(signed.ranges.length).toBe(requests);
      } finally {
        await signed.stop();
        await rm(persist, { recursive: true });
      }
    },
    START_MS_MAX,
  );
});
