/**
 * Keeps a machine from running ahead of its disk: it stands still while too much of what it wrote
 * is on its way, and while one request takes longer than guests bear. A machine that does not run
 * sees no time-out, and its memory is not filled with what it cannot store.
 */

/** What v86 has to start and stop a machine. */
export interface Emulator {
  /** Whether the machine runs. */
  is_running(): boolean;
  /** Lets it run. */
  run(): Promise<void>;
  /** Lets it stand still. */
  stop(): Promise<void>;
}

/** A request of the guest that has not ended. */
export interface Request {
  since: number;
  /** Of a write, what it counts for. */
  bytes: number;
}

/**
 * Of writes on their way; with half of it, the machine goes on. v86 lets no guest wait that writes
 * without DMA, as a BIOS does.
 */
const BACKLOG_BYTES = 16 * 1024 * 1024;
/**
 * What a write counts for at least: it is looked through by every later request, and takes room
 * beside its data.
 */
const WRITE_BYTES_MIN = 4096;
/** Guests take a disk for broken that does not answer, Linux and SeaBIOS after half a minute. */
const WAIT_MS_MAX = 10_000;

export class Pace {
  /** In the order in which they began. */
  readonly #requests = new Set<Request>();
  #backlog = 0;
  #emulator: Emulator | undefined;
  #held = false;
  /** It was running when it was stopped here. */
  #stopped = false;
  #moved: Promise<void> = Promise.resolve();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Bytes of writes on their way, as they count. */
  get backlog(): number {
    return this.#backlog;
  }

  /** Holds this machine from now on; without one, none. */
  of(emulator: Emulator | undefined): void {
    this.#emulator = emulator;
    this.#held = this.#stopped = false;
    this.#look();
  }

  /** A request begins; `written` is the length of a write. */
  begin(written?: number): Request {
    const request = {
      since: performance.now(),
      bytes: written === undefined ? 0 : Math.max(written, WRITE_BYTES_MIN),
    };
    this.#requests.add(request);
    this.#backlog += request.bytes;
    this.#look();
    return request;
  }

  end(request: Request): void {
    this.#requests.delete(request);
    this.#backlog -= request.bytes;
    this.#look();
  }

  #look(): void {
    const [oldest] = this.#requests;
    if (!this.#emulator || oldest === undefined) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
    if (!this.#emulator) return;
    const waits = oldest === undefined ? 0 : performance.now() - oldest.since;
    const held =
      waits >= WAIT_MS_MAX || this.#backlog > (this.#held ? BACKLOG_BYTES / 2 : BACKLOG_BYTES);
    if (held !== this.#held) {
      this.#held = held;
      // One that has been destroyed meanwhile cannot be moved, and need not.
      this.#moved = this.#moved.then(() => this.#move()).catch(() => {});
    }
    if (held || oldest === undefined) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#look();
    }, WAIT_MS_MAX - waits);
  }

  /**
   * One step after another: a machine that is told to go on before it stands still never tells that
   * it does.
   */
  async #move(): Promise<void> {
    const emulator = this.#emulator;
    if (!emulator) return;
    if (this.#held && emulator.is_running()) {
      this.#stopped = true;
      await emulator.stop();
    } else if (!this.#held && this.#stopped) {
      this.#stopped = false;
      await emulator.run();
    }
  }
}
