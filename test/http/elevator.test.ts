/**
 * How reads become requests: the elevator alone, with transfers that move when the test says so.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MillraceError } from '../../hosts/api/errors.ts';
import { Elevator } from '../../hosts/bases/elevator.ts';
import type { Transfer } from '../../hosts/bases/flight.ts';
import { REQUEST_BYTES_MAX, REQUEST_BYTES_MIN } from '../../hosts/bases/neighbours.ts';
import { pattern } from './object-server.ts';

const MIB = 1024 * 1024;
const object = pattern(40 * MIB);

/** One transfer in the test's hand. */
class Request {
  readonly start: number;
  readonly end: number;
  readonly cancelled: AbortSignal;
  readonly over: Promise<void>;
  readonly #transfer: Transfer;
  #settle!: { resolve: () => void; reject: (error: unknown) => void };

  constructor(transfer: Transfer, cancelled: AbortSignal) {
    this.#transfer = transfer;
    this.start = transfer.position;
    this.end = transfer.end;
    this.cancelled = cancelled;
    this.over = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    cancelled.addEventListener('abort', () => this.#settle.reject(cancelled.reason));
  }

  get range(): [number, number] {
    return [this.start, this.end];
  }

  get position(): number {
    return this.#transfer.position;
  }

  get once(): boolean {
    return this.#transfer.once ?? false;
  }

  get urgent(): boolean {
    return this.#transfer.urgent ?? false;
  }

  /** Delivers the next bytes; at the end the transfer is done. */
  async send(bytes: number = this.end - this.position): Promise<void> {
    this.#transfer.deliver(object.subarray(this.position, this.position + bytes));
    if (this.position === this.end) this.#settle.resolve();
    await turn();
  }

  async fail(error: unknown): Promise<void> {
    this.#settle.reject(error);
    await turn();
  }
}

/** Lets everything that is ready run. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function setUp(lanes = 6) {
  const requests: Request[] = [];
  const elevator = new Elevator(lanes, (transfer, cancelled) => {
    const request = new Request(transfer, cancelled);
    requests.push(request);
    return request.over;
  });
  /** A read, with what became of it. */
  const read = (
    start: number,
    end: number,
    hint: { background?: boolean; ahead?: boolean; signal?: AbortSignal } = {},
  ) => {
    const into = new Uint8Array(end - start);
    const state = {
      into,
      outcome: 'pending' as unknown,
      right: () => Buffer.compare(into, object.subarray(start, end)) === 0,
    };
    elevator.read(start, into, hint).then(
      () => (state.outcome = 'done'),
      (error) => (state.outcome = error),
    );
    return state;
  };
  const ranges = (): [number, number][] => requests.map((request) => request.range);
  return { elevator, requests, read, ranges };
}

const background = { background: true };
const badBlock = new MillraceError('EIO', 'bad block');

describe('merging', () => {
  test('neighbours that are asked for together leave as one request', async () => {
    const { read, ranges, requests } = setUp();
    const reads = [3, 1, 0, 2].map((n) => read(n * 1000, (n + 1) * 1000));
    await turn();
    expect(ranges()).toEqual([[0, 4000]]);
    await requests[0].send();
    expect(reads.every((one) => one.outcome === 'done' && one.right())).toBe(true);
  });

  test('overlapping ones too, each byte once', async () => {
    const { read, ranges, requests } = setUp();
    const reads = [read(0, 5000), read(4500, 9000), read(100, 200), read(0, 5000)];
    await turn();
    expect(ranges()).toEqual([[0, 9000]]);
    await requests[0].send();
    expect(reads.every((one) => one.outcome === 'done' && one.right())).toBe(true);
  });

  test('a gap is fetched with them when it is small against the request', async () => {
    const { read, ranges } = setUp();
    read(0, 100_000);
    read(101_000, 200_000);
    read(210_000, 300_000);
    await turn();
    expect(ranges()).toEqual([
      [0, 200_000],
      [210_000, 300_000],
    ]);
  });

  test('each read is done when its own bytes are there', async () => {
    const { read, requests } = setUp();
    const [first, second] = [read(0, 1000), read(1000, 3000)];
    await turn();
    await requests[0].send(999);
    expect(first.outcome).toBe('pending');
    await requests[0].send(1);
    expect(first.outcome).toBe('done');
    expect(second.outcome).toBe('pending');
    await requests[0].send(2000);
    expect(second.outcome).toBe('done');
    expect(first.right() && second.right()).toBe(true);
  });

  test('what waits is spread over the lanes, in requests of one to four MiB', async () => {
    const { read, requests, ranges } = setUp();
    const reads = Array.from({ length: 20 }, (_, n) => read(n * MIB, (n + 1) * MIB, background));
    await turn();
    expect(requests).toHaveLength(5);
    for (const { start, end } of requests) {
      expect(end - start).toBeGreaterThanOrEqual(REQUEST_BYTES_MIN);
      expect(end - start).toBeLessThanOrEqual(REQUEST_BYTES_MAX);
    }
    for (let n = 0; n < requests.length; n++) await requests[n].send();
    expect(reads.every((one) => one.outcome === 'done' && one.right())).toBe(true);
    const sorted = ranges().toSorted(([a], [b]) => a - b);
    expect(sorted[0][0]).toBe(0);
    expect(sorted.at(-1)![1]).toBe(20 * MIB);
    for (const [n, [start]] of sorted.slice(1).entries()) expect(start).toBe(sorted[n][1]);
  });

  test('runs smaller than a MiB are filled up to more than one', async () => {
    const { read, requests, ranges } = setUp();
    for (let n = 0; n < 8; n++) read(n * 700_000, (n + 1) * 700_000, background);
    await turn();
    expect(ranges()).toEqual([
      [0, 1_400_000],
      [1_400_000, 2_800_000],
      [2_800_000, 4_200_000],
      [4_200_000, 5_600_000],
    ]);
    expect(requests).toHaveLength(4);
  });

  test('a large read is spread over the lanes', async () => {
    const { read, requests } = setUp();
    const one = read(100, 100 + 9 * MIB);
    await turn();
    expect(requests.length).toBeGreaterThan(3);
    for (let n = 0; n < requests.length; n++) await requests[n].send();
    expect(one.outcome).toBe('done');
    expect(one.right()).toBe(true);
  });
});

describe('one fetch', () => {
  test('for two readers of one cluster', async () => {
    const { read, requests } = setUp();
    const first = read(65_536, 131_072);
    await turn();
    const second = read(65_536, 131_072);
    await turn();
    expect(requests).toHaveLength(1);
    await requests[0].send();
    expect([first.outcome, second.outcome]).toEqual(['done', 'done']);
    expect(first.right() && second.right()).toBe(true);
  });

  test('for the part that is still on its way; what has gone by is asked for again', async () => {
    const { read, requests, ranges } = setUp();
    read(10_000, 20_000);
    await turn();
    await requests[0].send(4000);
    const around = read(8000, 25_000);
    await turn();
    expect(ranges().slice(1)).toEqual([
      [8000, 14_000],
      [20_000, 25_000],
    ]);
    for (const request of requests) await request.send();
    expect(around.outcome).toBe('done');
    expect(around.right()).toBe(true);
  });

  test('for the foreground and a background read that waits for the same bytes', async () => {
    const { read, requests, ranges } = setUp(2);
    read(0, MIB, background);
    await turn();
    const waiting = read(5 * MIB, 6 * MIB, background);
    const urgent = read(5 * MIB + 1000, 5 * MIB + 2000);
    await turn();
    expect(ranges()).toEqual([
      [0, MIB],
      [5 * MIB + 1000, 5 * MIB + 2000],
    ]);
    await requests[0].send();
    await requests[1].send();
    expect(urgent.outcome).toBe('done');
    expect(ranges().slice(2).flat()).not.toContain(5 * MIB + 1000);
    for (let n = 2; n < requests.length; n++) await requests[n].send();
    expect(waiting.outcome).toBe('done');
    expect(waiting.right()).toBe(true);
    expect(
      ranges()
        .slice(2)
        .reduce((sum, [start, end]) => sum + end - start, 0),
    ).toBeLessThanOrEqual(MIB);
  });
});

describe('order', () => {
  test('the foreground has a lane that the background cannot take', async () => {
    const { read, requests } = setUp(3);
    for (let n = 0; n < 8; n++) read(n * 2 * MIB, n * 2 * MIB + MIB, background);
    await turn();
    expect(requests).toHaveLength(2);
    const urgent = read(30 * MIB, 30 * MIB + 512);
    await turn();
    expect(requests).toHaveLength(3);
    expect(requests[2].range).toEqual([30 * MIB, 30 * MIB + 512]);
    await requests[2].send();
    expect(urgent.outcome).toBe('done');
    expect(requests).toHaveLength(3);
  });

  test('a request of the background is urgent while a foreground read rides on it', async () => {
    const { read, requests } = setUp();
    const [first] = [read(0, 1000, background), read(1000, 2000, background)];
    await turn();
    expect(requests[0].urgent).toBe(false);
    const urgent = read(500, 1500);
    expect(requests[0].urgent).toBe(true);
    await requests[0].send(1500);
    expect([first.outcome, urgent.outcome, requests[0].urgent]).toEqual(['done', 'done', false]);
  });

  test('waiting foreground reads go before waiting background ones, in order of arrival', async () => {
    const { read, requests } = setUp(2);
    read(0, 100);
    read(10_000, 10_100);
    await turn();
    read(2000, 2100, background);
    read(9000, 9100);
    read(4000, 4100);
    await turn();
    expect(requests).toHaveLength(2);
    for (let n = 0; n < 5; n++) await requests[n].send();
    expect(requests.map((request) => request.start)).toEqual([0, 10_000, 9000, 4000, 2000]);
  });

  test('the background goes upwards through the object, then starts below', async () => {
    const { read, requests } = setUp(2);
    read(20_000, 20_100, background);
    await turn();
    for (const start of [90_000, 10_000, 50_000]) read(start, start + 100, background);
    await turn();
    for (let n = 0; n < 4; n++) await requests[n].send();
    expect(requests.map((request) => request.start)).toEqual([20_000, 50_000, 90_000, 10_000]);
  });
});

describe('an end before the bytes', () => {
  test("abort rejects with the signal's reason and cancels the request", async () => {
    const { read, requests } = setUp();
    const controller = new AbortController();
    const one = read(0, 1000, { signal: controller.signal });
    await turn();
    await requests[0].send(10);
    controller.abort('enough');
    await turn();
    expect(one.outcome).toBe('enough');
    expect(requests[0].cancelled.aborted).toBe(true);
  });

  test('a signal that is aborted already causes no request', async () => {
    const { read, requests } = setUp();
    const one = read(0, 1000, { signal: AbortSignal.abort('before') });
    await turn();
    expect(one.outcome).toBe('before');
    expect(requests).toHaveLength(0);
  });

  test('abort of a read that waits takes it out of the queue', async () => {
    const { read, requests } = setUp(2);
    const controller = new AbortController();
    read(0, 1000, background);
    await turn();
    const waiting = read(50_000, 51_000, { ...background, signal: controller.signal });
    await turn();
    controller.abort('enough');
    await turn();
    expect(waiting.outcome).toBe('enough');
    await requests[0].send();
    expect(requests).toHaveLength(1);
  });

  test("another reader of the request keeps it; the aborted one's buffer is touched no more", async () => {
    const { read, requests } = setUp();
    const controller = new AbortController();
    const one = read(0, 1000, { signal: controller.signal });
    const other = read(500, 1500);
    await turn();
    await requests[0].send(100);
    controller.abort('enough');
    await turn();
    one.into.fill(0);
    await requests[0].send();
    expect(requests[0].cancelled.aborted).toBe(false);
    expect(one.into.every((byte) => byte === 0)).toBe(true);
    expect(other.outcome).toBe('done');
    expect(other.right()).toBe(true);
  });

  test('the rest of a request is cancelled when the reads that wanted it are gone', async () => {
    const { read, requests } = setUp();
    const controller = new AbortController();
    const first = read(0, 1000);
    read(1000, 2000, { signal: controller.signal });
    await turn();
    controller.abort();
    await requests[0].send(1000);
    expect(first.outcome).toBe('done');
    expect(requests[0].cancelled.aborted).toBe(true);
    // What is cancelled takes nobody on board.
    const again = read(1000, 2000);
    await turn();
    expect(requests[1].range).toEqual([1000, 2000]);
    await requests[1].send();
    expect(again.outcome).toBe('done');
  });

  test('a failed request fails the reads that it still carried, and frees its lane', async () => {
    const { read, requests } = setUp(2);
    const [done, failed, later] = [
      read(0, 1000, background),
      read(1000, 2000, background),
      read(90_000, 91_000, background),
    ];
    await turn();
    await requests[0].send(1000);
    await requests[0].fail('broken');
    expect([done.outcome, failed.outcome]).toEqual(['done', 'broken']);
    await requests[1].send();
    expect(later.outcome).toBe('done');
  });

  test('of a request that may have failed for one of its reads, each is tried once more by itself', async () => {
    const { read, requests, ranges } = setUp();
    const reads = [0, 1, 2, 3].map((n) => read(n * 1000, (n + 1) * 1000, background));
    await turn();
    await requests[0].send(1500);
    await requests[0].fail(badBlock);
    expect(ranges()).toEqual([
      [0, 4000],
      [1500, 2000],
      [2000, 3000],
      [3000, 4000],
    ]);
    expect(requests.map(({ once }) => once)).toEqual([false, true, true, true]);
    await requests[1].send();
    await requests[2].fail(badBlock);
    await requests[3].send();
    expect(reads.map(({ outcome }) => outcome)).toEqual(['done', 'done', badBlock, 'done']);
    expect(reads[1].right() && reads[3].right()).toBe(true);
    expect(requests).toHaveLength(4);
  });

  test('but not when the whole object is at fault', async () => {
    const { read, requests } = setUp();
    const changed = new MillraceError('ECHANGED', 'another object');
    const reads = [read(0, 1000), read(1000, 2000)];
    await turn();
    await requests[0].fail(changed);
    expect([requests.length, ...reads.map(({ outcome }) => outcome)]).toEqual([
      1,
      changed,
      changed,
    ]);
  });

  test('a read that failed in one request is dropped from the others', async () => {
    const { read, requests } = setUp();
    const one = read(0, 9 * MIB);
    await turn();
    await requests[0].fail('broken');
    expect(one.outcome).toBe('broken');
    for (const request of requests.slice(1)) expect(request.cancelled.aborted).toBe(true);
  });

  test('close rejects what waits and what is on its way, and every later read', async () => {
    const { elevator, read, requests } = setUp(2);
    const reads = [read(0, 1000, background), read(90_000, 91_000, background)];
    await turn();
    await elevator.close('closed');
    expect(reads.map((one) => one.outcome)).toEqual(['closed', 'closed']);
    expect(requests[0].cancelled.aborted).toBe(true);
    const late = read(0, 1);
    await turn();
    expect(late.outcome).toBe('closed');
    expect(requests).toHaveLength(1);
  });

  test('a signal has one listener while reads depend on it, and none afterwards', async () => {
    const { read, requests } = setUp();
    const { signal } = new AbortController();
    let listeners = 0;
    const { addEventListener, removeEventListener } = signal;
    signal.addEventListener = (...args: Parameters<typeof addEventListener>) => (
      listeners++, addEventListener.apply(signal, args)
    );
    signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => (
      listeners--, removeEventListener.apply(signal, args)
    );
    read(0, 1000, { signal });
    read(1000, 2000, { signal });
    expect(listeners).toBe(1);
    await turn();
    await requests[0].send(1000);
    expect(listeners).toBe(1);
    await requests[0].send();
    expect(listeners).toBe(0);
  });
});

test('any mix of reads, aborts, failures and deliveries gives right bytes, few wasted ones, and an end', async () => {
  const step = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({
        do: fc.constant('read' as const),
        at: fc.nat(3 * MIB),
        length: fc.integer({ min: 1, max: 300_000 }),
        background: fc.boolean(),
      }),
    },
    {
      weight: 5,
      arbitrary: fc.record({
        do: fc.constant('send' as const),
        pick: fc.nat(5),
        share: fc.double({ min: 0.01, max: 1, noNaN: true }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('abort' as const), pick: fc.nat(30) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('fail' as const), pick: fc.nat(5) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('turn' as const) }) },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 2, max: 7 }),
      fc.array(step, { maxLength: 60 }),
      async (lanes, steps) => {
        const { read, requests } = setUp(lanes);
        const reads: { state: ReturnType<typeof read>; controller: AbortController }[] = [];
        const live = (): Request[] =>
          requests.filter(
            (request) =>
              request.position < request.end &&
              !request.cancelled.aborted &&
              !failed.includes(request),
          );
        let asked = 0;
        let aborted = false;
        const failed: Request[] = [];
        for (const one of steps) {
          expect(live().length).toBeLessThanOrEqual(lanes);
          if (one.do === 'read') {
            const controller = new AbortController();
            const hint = { background: one.background, signal: controller.signal };
            reads.push({ state: read(one.at, one.at + one.length, hint), controller });
            asked += one.length;
          } else if (one.do === 'send') {
            const request = live()[one.pick];
            await request?.send(Math.ceil((request.end - request.position) * one.share));
          } else if (one.do === 'abort') {
            aborted ||= reads[one.pick]?.state.outcome === 'pending';
            reads[one.pick]?.controller.abort('enough');
          } else if (one.do === 'fail') {
            const request = live()[one.pick];
            if (request !== undefined) failed.push(request);
            await request?.fail(badBlock);
          } else {
            await turn();
          }
        }
        await turn();
        for (let request = live()[0]; request !== undefined; request = live()[0])
          await request.send();
        for (const { state } of reads) {
          expect(['done', 'enough', ...(failed.length > 0 ? [badBlock] : [])]).toContain(
            state.outcome,
          );
          if (state.outcome === 'done') expect(state.right()).toBe(true);
        }
        const sent = requests.reduce((sum, request) => sum + request.position - request.start, 0);
        if (!aborted && failed.length === 0) expect(sent).toBeLessThanOrEqual(asked * 1.03);
      },
    ),
    { numRuns: 200 },
  );
});

describe('what is fetched ahead', () => {
  const ahead = { background: true, ahead: true };
  const background = { background: true };

  test('goes behind those who wait, before the rest, in the order of its asking', async () => {
    const { requests, read } = setUp(2);
    read(30 * MIB, 31 * MIB, background);
    await turn();
    read(1 * MIB, 2 * MIB, background);
    read(20 * MIB, 21 * MIB, ahead);
    read(10 * MIB, 11 * MIB, ahead);
    read(5 * MIB, 6 * MIB);
    await turn();
    expect(requests.map(({ start }) => start / MIB)).toEqual([30, 5]);
    for (let i = 0; i < 5; i++) await requests[i].send();
    expect(requests.map(({ start }) => start / MIB)).toEqual([30, 5, 20, 10, 1]);
  });

  test('leaves a lane to those who wait', async () => {
    const { requests, read } = setUp(3);
    for (let place = 1; place < 9; place += 2) read(place * MIB, (place + 1) * MIB, ahead);
    await turn();
    expect(requests).toHaveLength(2);
    read(30 * MIB, 31 * MIB);
    await turn();
    expect(requests[2].start).toBe(30 * MIB);
    expect(requests.map(({ urgent }) => urgent)).toEqual([false, false, true]);
  });
});
