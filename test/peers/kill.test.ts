/**
 * A stream that is killed (SIGKILL) at seeded moments, reopened and resumed, over and over: the
 * image is never corrupt, what was flushed is there, nothing leaks once it has been reopened, and
 * only what was in flight is fetched twice. `MILLRACE_KILLS` sets how often.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { CacheMode, CreateOptions } from '../../hosts/node/index.ts';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { makeContent, Random } from '../fixtures/content.ts';
import { makeRegions, writeRaw } from '../fixtures/layout.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { NginxServer } from '../support/nginx.ts';
import { startNginx } from '../support/nginx.ts';
import { check, convertImage, createImage } from '../support/qemu.ts';
import { bundle } from './bundle.ts';
import { expectShows, expectSound, Model } from './model.ts';
import { slotContent, slotOffset } from './slots.ts';
import type { StreamerOrder } from './streamer.ts';

const MIB = 1 << 20;
const KILLS = Number(process.env.MILLRACE_KILLS ?? 40);
/** A process lives so long at most, counted from the start of its stream. */
const LIFE_MS_MAX = 600;
/** A kill costs a second at most, an overlay's end two. */
const TIMEOUT_MS = 60_000 + KILLS * 4_000;

interface Setting {
  base: 'base.raw' | 'base-zlib.qcow2';
  /** How we make the overlay; version 2, which cannot tell that it was not closed, QEMU makes. */
  shape: Partial<CreateOptions> | 'version 2';
  cache?: CacheMode;
  compressed?: 'keep';
}

const SETTINGS: Setting[] = [
  { base: 'base.raw', shape: {} },
  { base: 'base-zlib.qcow2', shape: { clusterSize: 4096 } },
  { base: 'base-zlib.qcow2', shape: {}, compressed: 'keep' },
  { base: 'base.raw', shape: 'version 2' },
  { base: 'base.raw', shape: { extendedL2: true } },
  { base: 'base-zlib.qcow2', shape: { clusterSize: 512, refcountBits: 64 } },
  { base: 'base-zlib.qcow2', shape: { clusterSize: 2 * MIB } },
  { base: 'base-zlib.qcow2', shape: { extendedL2: true }, compressed: 'keep' },
  // A kill takes nothing from the page cache.
  { base: 'base.raw', shape: {}, cache: 'unsafe' },
];

describeWithPeer(['qemu-img', 'nginx'], 'a stream that is killed', () => {
  let dir: string;
  let nginx: NginxServer;
  let program: string;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'millrace-kill-'));
    nginx = await startNginx({ root: dir });
    program = await bundle('streamer.ts', dir);
    await writeRaw(join(dir, 'base.raw'), 96 * MIB, denseRegions(96 * MIB));
    await convertImage(join(dir, 'base.raw'), join(dir, 'base-zlib.qcow2'), {
      from: 'raw',
      compress: true,
    });
  });
  afterAll(async () => {
    await nginx?.stop();
    await rm(dir, { recursive: true });
  });

  it(
    `is sound after each of ${KILLS} kills, and complete in the end`,
    async () => {
      const random = new Random(40);
      for (let kills = 0, round = 0; kills < KILLS; round++) {
        kills += await untilComplete(SETTINGS[round % SETTINGS.length], random, KILLS - kills);
      }
    },
    TIMEOUT_MS,
  );

  /**
   * Creates an overlay and streams it with kills in between, `most` of them; returns how many there
   * were.
   */
  async function untilComplete(
    { base, shape, cache, compressed }: Setting,
    random: Random,
    most: number,
  ): Promise<number> {
    const overlay = join(dir, 'overlay.qcow2');
    const url = `${nginx.url}/${base}`;
    const [recordBase, baseFormat] = [
      join(dir, base),
      base === 'base.raw' ? 'raw' : 'qcow2',
    ] as const;
    if (shape === 'version 2')
      await createImage(overlay, { base: recordBase, baseFormat, with: { compat: '0.10' } });
    else await (await createDisk({ overlay, base: url, recordBase, ...shape })).close();
    const model = await Model.of(overlay, join(dir, 'expected.raw'));
    let slot = 1;
    let kills = 0;
    for (let complete = false; !complete; kills += complete ? 0 : 1) {
      const life = kills < most ? random.between(0, LIFE_MS_MAX) : Infinity;
      const said = await streamUntilKilled(
        { overlay, base: url, speed: 64 * MIB, slot, cache, compressed },
        (line) => (line.startsWith('streaming') ? life : undefined),
      );
      complete = said.includes('complete');
      const { exitCode, messages } = await check(overlay);
      expect(exitCode === 0 || exitCode === 3, `right after a kill: ${messages}`).toBe(true);
      slot = await settled(overlay, url, model, said, slot);
      await expectSound(overlay);
      await expectShows(overlay, model);
    }
    await model.close();
    await rm(overlay);
    return kills;
  }

  /** Reopens: what was flushed is there, what was not is written again. Returns the next slot. */
  async function settled(
    overlay: string,
    base: string,
    model: Model,
    said: string[],
    first: number,
  ): Promise<number> {
    const flushed = lastNumber(said, 'flushed') ?? first - 1;
    const written = lastNumber(said, 'writing') ?? first - 1;
    const alone = said.includes('complete');
    const disk = await openDisk(alone ? { overlay } : { overlay, base });
    for (let slot = first; slot <= written; slot++) {
      const [offset, content] = [slotOffset(slot, disk.size), slotContent(slot)];
      const found = await disk.read(offset, content.length);
      if (slot <= flushed || alone)
        expect(
          Buffer.compare(found, content),
          `slot ${slot} at ${offset}, flushed before the kill`,
        ).toBe(0);
      else await disk.write(offset, content);
      await model.write(offset, content);
    }
    await disk.close();
    return written + 1;
  }

  it('fetches again what was in flight, and no more', async () => {
    const size = 320 * MIB;
    await writeFilled(join(dir, 'large.raw'), size);
    const overlay = join(dir, 'large.qcow2');
    const base = `${nginx.url}/large.raw`;
    await (await createDisk({ overlay, base, recordBase: join(dir, 'large.raw') })).close();
    const speed = 64 * MIB;
    // Each process is killed when it has fetched so much, whatever time that takes.
    const gain = 96 * MIB;
    let kills = 0;
    for (let complete = false; !complete; kills += complete ? 0 : 1) {
      let last = 0;
      const said = await streamUntilKilled({ overlay, base, speed }, (line) => {
        const [word, bytes] = line.split(' ');
        if (word === 'streaming') last = Number(bytes) - gain;
        return word === 'remaining' && Number(bytes) <= last ? 0 : undefined;
      });
      complete = said.includes('complete');
    }
    expect(kills).toBeGreaterThan(1);
    const sent = (await nginx.log())
      .filter(({ uri }) => uri === '/large.raw')
      .reduce((sum, { bytes }) => sum + bytes, 0);
    // In flight, that is being fetched, being written, or waiting for a flush: at most what the
    // disk has memory for.
    expect(sent).toBeLessThan(size + kills * 32 * MIB);
    await expectSound(overlay);
  }, 120_000);

  /**
   * Runs a streamer; the first line for which `life` gives a number of milliseconds is its
   * sentence. Returns the lines it said.
   */
  async function streamUntilKilled(
    order: StreamerOrder,
    life: (line: string) => number | undefined,
  ): Promise<string[]> {
    const child = spawn(process.execPath, [program, JSON.stringify(order)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let complaints = '';
    child.stderr.setEncoding('utf8').on('data', (text) => (complaints += text));
    const said: string[] = [];
    let timer: ReturnType<typeof setTimeout> | undefined;
    createInterface({ input: child.stdout }).on('line', (line) => {
      said.push(line);
      const wait = timer === undefined ? life(line) : undefined;
      if (wait !== undefined && wait !== Infinity)
        timer = setTimeout(() => child.kill('SIGKILL'), wait);
    });
    const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
    clearTimeout(timer);
    if (code !== 0 && signal !== 'SIGKILL')
      throw new Error(`the streamer ended with ${code}: ${complaints}`);
    return said;
  }
});

function lastNumber(said: readonly string[], word: string): number | undefined {
  const line = said.findLast((one) => one.startsWith(`${word} `));
  return line === undefined ? undefined : Number(line.slice(word.length + 1));
}

/** Runs of data that fill about half of the disk, in pieces of all sizes. */
function denseRegions(size: number): ReturnType<typeof makeRegions> {
  const random = new Random(5);
  const regions = makeRegions(size, 65536, 3);
  for (let offset = 0; offset < size; ) {
    const length = Math.min(random.between(1, 2048) * 512, size - offset);
    regions.push({
      offset,
      length,
      kind: random.between(0, 3) ? 'text' : 'random',
      seed: random.next(),
    });
    offset += length + random.between(0, 2048) * 512;
  }
  return regions;
}

/** A file without a zero cluster. */
async function writeFilled(path: string, size: number): Promise<void> {
  const block = makeContent('random', 9, MIB);
  const file = await open(path, 'w');
  for (let at = 0; at < size; at += MIB) await file.write(block, 0, MIB, at);
  await file.close();
}
