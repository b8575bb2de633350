/** A machine at work: its disk, the disk's connection to v86, the machine itself and what the page shows of them. */
import type { BrowserDisk } from '../hosts/browser/index.ts';
import { createDisk, deleteDisk, openDisk } from '../hosts/browser/index.ts';
import type { MillraceError } from '../hosts/browser/index.ts';
import { attachDisk } from '../hosts/v86/index.ts';
import type { V86Disk } from '../hosts/v86/index.ts';
import { part } from './dom.ts';
import { Gauge } from './gauge.ts';
import { Machine } from './machine.ts';
import { notesOf } from './memory.ts';
import { hideProblem, NotAnImage, showProblem } from './problems.ts';

/** What to boot: a disk that is here, or a new one over a base. */
export interface Boot {
  name: string;
  create: boolean;
  /** URL or file; for a disk that is here only where it is another than the recorded one. */
  base?: string | File;
  /** Wait for another tab to close the disk. */
  wait?: boolean;
  /** Gives the waiting up. */
  signal?: AbortSignal;
}

const BOOT_RECORD_BYTES = 512;

export class Session {
  readonly name: string;
  readonly disk: BrowserDisk;
  readonly #hda: V86Disk;
  readonly #machine: Machine;
  readonly #gauge: Gauge;

  /** @throws MillraceError; NotAnImage when a new disk would not boot. Nothing is left of a new disk then. */
  static async start(boot: Boot): Promise<Session> {
    const disk = await open(boot);
    try {
      const session = new Session(boot.name, disk, await attachDisk(disk));
      // A new disk begins to stream at once; what was under way on another has been taken up by opening it.
      if (boot.create && (await disk.remaining()) > 0) await session.#gauge.start().catch(showProblem);
      return session;
    } catch (error) {
      await disk.close().catch(() => {});
      throw error;
    }
  }

  private constructor(name: string, disk: BrowserDisk, hda: V86Disk) {
    this.name = name;
    this.disk = disk;
    this.#hda = hda;
    hda.addEventListener('error', (event) => showProblem((event as CustomEvent<MillraceError>).detail));
    hda.addEventListener('recovered', hideProblem);
    hda.addEventListener('write', () => tellSaved(false));
    hda.addEventListener('flushed', () => tellSaved(true));
    tellSaved(true);
    this.#machine = new Machine({ hda, memory: notesOf(name).memory, screen: part('screen'), serial: part('serial') });
    this.#gauge = new Gauge(name, disk, hda);
  }

  restart(): void {
    this.#machine.restart();
  }

  /** Switches the machine off and closes its disk; a job that is under way goes on at the next boot. */
  async end(): Promise<void> {
    this.#gauge.end();
    await this.#machine.end();
    try {
      await this.#hda.close();
    } finally {
      await this.disk.close();
    }
  }
}

async function open({ name, create, base, wait, signal }: Boot): Promise<BrowserDisk> {
  if (!create) return openDisk({ overlay: name, base, resumeJob: true, whenBusy: wait ? 'wait' : 'fail', signal });
  const disk = await createDisk({ overlay: name, base });
  const record = await disk.read(0, Math.min(BOOT_RECORD_BYTES, disk.size)).catch(async (error) => {
    await discard(disk, name);
    throw error;
  });
  if (record[510] === 0x55 && record[511] === 0xaa) return disk;
  await discard(disk, name);
  throw new NotAnImage(`the first sector of ${typeof base === 'string' ? base : base?.name ?? name} does not end in 55 AA, so a BIOS would not boot it`);
}

async function discard(disk: BrowserDisk, name: string): Promise<void> {
  await disk.close().catch(() => {});
  if (disk.persistent) await deleteDisk(name);
}

function tellSaved(saved: boolean): void {
  const text = saved ? 'All writes saved' : 'Saving…';
  const element = part('saved');
  if (element.textContent !== text) element.textContent = text;
}
