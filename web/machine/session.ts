/**
 * A machine at work: its disk, the disk's connection to v86, the machine itself and what the page
 * shows of them.
 */
import type { BrowserDisk, MillraceError } from '../../hosts/browser/index.ts';
import { createDisk, deleteDisk, openDisk } from '../../hosts/browser/index.ts';
import type { Emulator, GuestAccess, V86Disk } from '../../hosts/faces/v86/index.ts';
import { attachDisk } from '../../hosts/faces/v86/index.ts';
import type { DiskPanel, DiskWatch } from '../disk/panel.ts';
import { note, notesOf } from '../images/notes.ts';
import { part } from '../page/dom.ts';
import { hideNotice } from '../page/notice.ts';
import { NotAnImage, NotRestored, showProblem } from '../page/problems.ts';
import { Machine } from './machine.ts';
import type { Panes } from './panes.ts';
import type { Restored } from './state.ts';
import { packState, unpackState } from './state.ts';
import { Waiting } from './waiting.ts';

/** What to boot: a disk that is here, or a new one over a base. */
export interface Boot {
  name: string;
  create: boolean;
  /** URL or file; for a disk that is here only where it is another than the recorded one. */
  base?: string | File;
  /** Wait for another tab to close the disk. */
  wait?: boolean;
  /** Start the machine, though it was suspended. */
  fresh?: boolean;
}

/** Where a session shows itself, and whom it tells that its machine cannot go on from its state. */
export interface Stage {
  panel: DiskPanel;
  panes: Panes;
  failed(error: unknown): void;
}

const BOOT_RECORD_BYTES = 512;

export class Session {
  readonly name: string;
  readonly disk: BrowserDisk;
  readonly #hda: V86Disk;
  readonly machine: Machine;
  readonly #watch: DiskWatch;
  readonly #waiting: Waiting;
  #memory = 0;
  readonly #ended = new AbortController();

  /**
   * `signal` gives it up. A machine that was suspended goes on where it was.
   * @throws MillraceError; NotAnImage when a new disk would not boot. Nothing is left of a new disk
   *   then.
   */
  static async start(boot: Boot, stage: Stage, signal: AbortSignal): Promise<Session> {
    const disk = await open(boot, signal);
    try {
      signal.throwIfAborted();
      const hda = await attachDisk(disk);
      if (boot.create) checkBootRecord(boot, hda);
      const lacking = (await disk.remaining()) > 0;
      const kept = boot.create || boot.fresh ? undefined : await disk.savedState();
      const restored = kept && (await unpackState(kept));
      signal.throwIfAborted();
      const session = new Session(boot.name, { disk, hda, restored }, stage);
      // A new disk begins to stream at once; what was under way on another has been taken up by
      // opening it.
      if (boot.create && lacking) session.#watch.start().catch(showProblem);
      return session;
    } catch (error) {
      await disk.close().catch(() => {});
      if (boot.create && disk.persistent) await deleteDisk(boot.name).catch(() => {});
      throw error;
    }
  }

  private constructor(
    name: string,
    { disk, hda, restored }: { disk: BrowserDisk; hda: V86Disk; restored?: Restored },
    stage: Stage,
  ) {
    this.name = name;
    this.disk = disk;
    this.#hda = hda;
    hda.addEventListener('error', (event) =>
      showProblem((event as CustomEvent<MillraceError>).detail),
    );
    hda.addEventListener('recovered', () => {
      hideNotice();
      this.#watch.recovered();
    });
    const tellSaved = (saved: boolean): void =>
      tell(
        disk.persistent
          ? saved
            ? 'All writes saved'
            : 'Saving…'
          : 'In memory: kept until this page is left',
      );
    hda.addEventListener('unsaved', () => tellSaved(false));
    hda.addEventListener('flushed', () => tellSaved(true));
    tellSaved(true);
    // A disk in memory has no file.
    part('export-qcow2').hidden = !disk.persistent;
    this.#watch = stage.panel.watch(disk, notesOf(name).written);
    this.#waiting = new Waiting(() => this.#watch.read);
    this.machine = this.#machineOn(stage, restored);
    hda.pace(this.#showing(this.machine.emulator));
    this.#follow();
  }

  #machineOn({ panes, failed }: Stage, restored: Restored | undefined): Machine {
    panes.begin();
    this.#memory = restored?.memory ?? notesOf(this.name).memory;
    const machine = new Machine({
      hda: this.#hda,
      memory: this.#memory,
      screen: part('screen'),
      screenKeys: part('screen-keys'),
      serial: part('serial'),
      spoken: part('spoken'),
      state: restored?.state,
      uses: (what) => {
        if (what === 'serial') this.#waiting.end();
        panes.uses(what);
      },
      runs: () => this.#waiting.runs(),
      failed: (error) => failed(new NotRestored(String(error))),
    });
    if (!restored) return machine;
    // It may have nothing more to say.
    this.#waiting.end();
    machine.terminal.showText(restored.terminal);
    return machine;
  }

  /** Shows what the guest does to its disk. */
  #follow(): void {
    const heard = (type: string, show: (access: GuestAccess) => void): void =>
      this.#hda.addEventListener(
        type,
        (event) => show((event as CustomEvent<GuestAccess>).detail),
        {
          signal: this.#ended.signal,
        },
      );
    heard('read', ({ offset, length }) => this.#watch.guestRead(offset, length));
    heard('write', ({ offset, length }) => this.#watch.guestWrote(offset, length));
    heard('flushed', () => note(this.name, { written: this.#watch.written }));
  }

  /** The machine, which says when it stands still. */
  #showing(emulator: Emulator): Emulator {
    const { name } = this;
    const title = (text: string): void => void (part('title').textContent = text);
    return {
      is_running: () => emulator.is_running(),
      stop() {
        title(`${name} waits for its disk`);
        return emulator.stop();
      },
      run() {
        title(name);
        return emulator.run();
      },
    };
  }

  /**
   * Keeps the machine's state beside its disk; it stands still afterwards, and is to be ended.
   * Given up or failed, it goes on.
   * @throws MillraceError
   */
  async suspend(signal: AbortSignal): Promise<void> {
    const { emulator, terminal } = this.machine;
    this.#hda.pace(undefined);
    try {
      await emulator.stop();
      // What the guest has asked for may never come while a base cannot be reached.
      await Promise.race([this.#hda.flush(), aborted(signal)]);
      const state = await this.machine.save();
      await this.disk.saveState(
        packState({ memory: this.#memory, terminal: terminal.text, state }),
      );
    } catch (error) {
      this.#hda.pace(this.#showing(emulator));
      await emulator.run();
      throw error;
    }
  }

  /**
   * Switches the machine off and closes its disk; a job that is under way goes on at the next boot.
   */
  async end(): Promise<void> {
    this.#ended.abort();
    this.#waiting.end();
    this.#watch.end();
    this.#hda.pace(undefined);
    const ends: PromiseSettledResult<void>[] = [];
    for (const what of [() => this.machine.end(), () => this.#hda.close(), () => this.disk.close()])
      ends.push(...(await Promise.allSettled([what()])));
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) =>
    signal.addEventListener('abort', () => reject(signal.reason as Error)),
  );
}

function open({ name, create, base, wait }: Boot, signal: AbortSignal): Promise<BrowserDisk> {
  if (create) return createDisk({ overlay: name, base, record: true });
  return openDisk({
    overlay: name,
    base,
    record: true,
    resumeJob: true,
    whenBusy: wait ? 'wait' : 'fail',
    signal,
  });
}

function checkBootRecord({ name, base }: Boot, hda: V86Disk): void {
  const record = hda.get_from_cache(0, BOOT_RECORD_BYTES);
  if (record?.[510] === 0x55 && record[511] === 0xaa) return;
  throw new NotAnImage(
    `the first sector of ${typeof base === 'string' ? base : (base?.name ?? name)} does not end in 55 AA, so a BIOS would not boot it`,
  );
}

/** How safe the guest's writes are. */
function tell(text: string): void {
  const element = part('saved');
  if (element.textContent !== text) element.textContent = text;
}
