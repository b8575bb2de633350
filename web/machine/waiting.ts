/**
 * What is told while a machine says nothing on its serial line: that it is at work, and how far.
 */
import { part } from '../page/dom.ts';
import { bytes } from '../page/format.ts';

const TICK_MS = 500;
/** By then, most of what boots by the serial line has said something. */
const PATIENCE_S = 60;

export class Waiting {
  readonly #read: () => number;
  readonly #timer: ReturnType<typeof setInterval>;
  #since = performance.now();
  #what = 'The emulator is being loaded';

  /** `read` tells how many bytes the machine has read from its disk. */
  constructor(read: () => number) {
    this.#read = read;
    this.#timer = setInterval(() => this.#tell(), TICK_MS);
    this.#tell();
  }

  /** The machine has been started. */
  runs(): void {
    this.#what = 'The machine starts';
    this.#since = performance.now();
    this.#tell();
  }

  /** The machine says something, or is no more. */
  end(): void {
    clearInterval(this.#timer);
    part('waiting').textContent = '';
  }

  #tell(): void {
    const seconds = Math.floor((performance.now() - this.#since) / 1000);
    const patience = seconds < PATIENCE_S ? '' : ' It may use only its screen.';
    const text = `${this.#what}: ${seconds} s, ${bytes(this.#read())} read from its disk. Nothing on the serial line yet.${patience}`;
    part('waiting').textContent = text;
  }
}
