/** Notices that nothing comes while somebody waits, so that a command does not wait in silence. */

/** The user hears of a server that has brought nothing for so long. */
export const TROUBLE_MS: number = 2000;

/** Watches one object: all its requests together. */
export class Trouble {
  readonly #tell: (message: string) => void;
  readonly #received: () => number;
  #waiting = 0;
  #timer: ReturnType<typeof setInterval> | undefined;
  #seen = 0;
  #told = false;
  #reason: string | undefined;

  /**
   * `received` gives the bytes that have come so far; `tell` is called once for each time in which
   * none come.
   */
  constructor(tell: (message: string) => void, received: () => number) {
    this.#tell = tell;
    this.#received = received;
  }

  /** Somebody waits from now on, until `end`. */
  begin(): void {
    if (this.#waiting++ > 0) return;
    this.#seen = this.#received();
    this.#reason = undefined;
    this.#timer = setInterval(() => this.#look(), TROUBLE_MS);
  }

  end(): void {
    if (--this.#waiting > 0) return;
    clearInterval(this.#timer);
    this.#told = false;
  }

  /** What went wrong last, and is tried again. */
  note(reason: string): void {
    this.#reason = reason;
  }

  #look(): void {
    const received = this.#received();
    if (received !== this.#seen) {
      this.#seen = received;
      this.#told = false;
      this.#reason = undefined;
    } else if (!this.#told) {
      this.#told = true;
      this.#tell(this.#reason ?? `the server has sent nothing for ${TROUBLE_MS / 1000} s`);
    }
  }
}
