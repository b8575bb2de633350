/**
 * One case of a power cut under the server: clients write, trim and zero by several connections,
 * with NBD_CMD_FLUSH and FUA between, on storage that loses what was not flushed. Afterwards every
 * sector shows the last that was made safe, or something that was written since.
 */
import type { BlockFile } from '../../hosts/api/block.ts';
import type { Disk } from '../../hosts/api/disk.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import { NbdServer } from '../../hosts/faces/nbd/server.ts';
import { makeContent, Random } from '../fixtures/content.ts';
import { checkImage } from '../simulator/checker.ts';
import { CUTS, SECTOR, Storage } from '../simulator/storage.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { Client } from './client.ts';

const CLUSTER = 4096;
const CLUSTERS_A_CLIENT = 24;
const CLIENTS = 3;
const DISK_BYTES = CLIENTS * CLUSTERS_A_CLIENT * CLUSTER;
const ACTIONS_MAX = 60;
const STYLES = ['simple', 'structured', 'extended'] as const;
/** The longest that an operation of the storage takes, in turns of the event loop. */
const TURNS_MAX = 6;

/** What a sector may show: 0 is zeros, -1 the base, all else a byte that was written. */
interface Written {
  value: number;
  answered: boolean;
}

/** @throws what went wrong. */
export async function runPowerCut(seed: number): Promise<void> {
  const random = new Random(seed);
  const base = makeContent('random', seed, DISK_BYTES);
  const machine = new PoweredRuntime(new Random(random.next()));
  machine.add('base.raw', base);
  const images = { overlay: 'vm.qcow2', base: 'base.raw', baseFormat: 'raw' } as const;
  const disk = await machine.create({ ...images, clusterSize: CLUSTER });
  if (random.next() & 1) await disk.stream({ nonblock: true, keepBase: true });
  const server = new NbdServer({ vda: disk });
  const model = new Model();
  const writers = [];
  for (let index = 0; index < CLIENTS; index++) {
    const client = await Client.ready(server, STYLES[random.next() % STYLES.length]);
    writers.push(write(client, index, model, new Random(random.next())).catch(() => {}));
  }
  const turns = random.between(0, 2000);
  for (let turn = 0; turn < turns; turn++) await nextTurn();
  model.isOver = true;
  machine.cut(random);
  await Promise.all(writers);
  await server.close().catch(() => {});
  await disk.close().catch(() => {});

  const after = new MemoryRuntime();
  after.add('base.raw', base);
  const { storage } = machine;
  const { corruptions } = checkImage(storage.bytes.slice(0, storage.size));
  if (corruptions.length > 0) throw new Error(`the image is damaged: ${corruptions[0]}`);
  after.add('vm.qcow2', storage.bytes.slice(0, storage.size));
  const again = await after.open({ overlay: 'vm.qcow2' });
  await compare(again, model, base);
  await again.close();
}

/** A client's work on its own part of the disk, one request after another. */
async function write(client: Client, index: number, model: Model, random: Random): Promise<void> {
  const first = index * CLUSTERS_A_CLIENT * CLUSTER;
  for (let action = 0; action < ACTIONS_MAX && !model.isOver; action++) {
    const kind = random.next() % 8;
    if (kind === 0) {
      const covered = model.answered();
      await client.request(3, 0, 0);
      if ((await client.reply()).error === 0) model.flushed(covered);
      continue;
    }
    const unit = kind < 3 ? CLUSTER : SECTOR;
    const units = (CLUSTERS_A_CLIENT * CLUSTER) / unit;
    const at = random.next() % units;
    const count = Math.min(units - at, random.between(1, 12));
    const value = kind < 3 ? 0 : random.between(1, 255);
    const isSafe = random.next() % 4 === 0;
    const [offset, length] = [first + at * unit, count * unit];
    const type = kind < 3 ? [4, 6, 6][kind] : 1;
    const payload = type === 1 ? Buffer.alloc(length, value) : undefined;
    const flags = (isSafe ? 1 : 0) | (type === 1 && client.style === 'extended' ? 32 : 0);
    const written = model.write(offset, length, value);
    await client.request(type, offset, length, { flags, payload });
    const { error } = await client.reply();
    if (error !== 0) throw new Error(`an action ended with ${error}`);
    if (!model.isOver) for (const each of written) each.answered = true;
    if (isSafe && !model.isOver) model.safe(offset, length);
  }
}

/** What each sector may show: the last that is safe, and all that was asked for since. */
class Model {
  isOver = false;
  readonly #sectors: Written[][] = Array.from({ length: DISK_BYTES / SECTOR }, () => [
    { value: -1, answered: true },
  ]);

  write(offset: number, length: number, value: number): Written[] {
    return this.#within(offset, length).map((list) => {
      const written = { value, answered: false };
      list.push(written);
      return written;
    });
  }

  /** NBD_CMD_FLAG_FUA was answered: one part of the disk has one writer. */
  safe(offset: number, length: number): void {
    for (const list of this.#within(offset, length)) list.splice(0, list.length - 1);
  }

  /** What a flush that is asked for now has to cover. */
  answered(): Written[] {
    return this.#sectors.map((list) => list.findLast(({ answered }) => answered)!);
  }

  /** It was answered. */
  flushed(covered: readonly Written[]): void {
    if (this.isOver) return;
    for (const [sector, written] of covered.entries()) {
      const list = this.#sectors[sector];
      // What was made safe meanwhile by itself is not there any more.
      const at = list.indexOf(written);
      if (at > 0) list.splice(0, at);
    }
  }

  values(sector: number): number[] {
    return this.#sectors[sector].map(({ value }) => value);
  }

  #within(offset: number, length: number): Written[][] {
    return this.#sectors.slice(offset / SECTOR, (offset + length) / SECTOR);
  }
}

async function compare(disk: Disk, model: Model, base: Uint8Array): Promise<void> {
  const bytes = Buffer.from(await disk.read(0, DISK_BYTES));
  for (let sector = 0; sector < DISK_BYTES / SECTOR; sector++) {
    const at = sector * SECTOR;
    const shown = bytes.subarray(at, at + SECTOR);
    const values = model.values(sector);
    const isRight = values.some((value) =>
      shown.equals(value < 0 ? base.subarray(at, at + SECTOR) : Buffer.alloc(SECTOR, value)),
    );
    if (!isRight)
      throw new Error(`sector ${sector} shows ${shown[0]}…, and may show one of ${values}`);
  }
}

/** A runtime whose overlay lies on storage that loses power. */
class PoweredRuntime extends MemoryRuntime {
  readonly storage = new Storage();
  readonly #random: Random;
  readonly #inFlight = new Set<{ offset: number; data: Uint8Array }>();
  #isDead = false;

  constructor(random: Random) {
    super();
    this.#random = random;
  }

  cut(random: Random): void {
    this.#isDead = true;
    this.storage.cut(CUTS[random.next() % CUTS.length], [...this.#inFlight], random);
  }

  override async openOverlay(): Promise<BlockFile> {
    const { storage } = this;
    return {
      name: 'vm.qcow2',
      get size() {
        return storage.size;
      },
      read: (offset, into) => this.#after(() => storage.read(offset, into)),
      write: (offset, from) => {
        const change = { offset, data: from.slice() };
        this.#inFlight.add(change);
        return this.#after(() => {
          this.#inFlight.delete(change);
          storage.write(offset, change.data);
        });
      },
      flush: async () => {
        const mark = storage.mark();
        await this.#after(() => storage.flushed(mark));
      },
      truncate: (size) => this.#after(() => storage.truncate(size)),
      close() {},
    };
  }

  async #after(perform: () => void): Promise<void> {
    for (let turns = this.#random.next() % TURNS_MAX; turns > 0; turns--) await nextTurn();
    // No error that passes: nobody is to try again.
    if (this.#isDead) throw new MillraceError('EACCES', 'the power is gone');
    perform();
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
