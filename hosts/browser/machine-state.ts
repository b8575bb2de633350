/** The state of a machine, beside the disk that a worker has: it fits one content of the disk. */
import { MillraceError } from '../api/errors.ts';
import type { EngineDisk } from '../disk/disk.ts';
import { describeState, readState, removeState, writeState } from './beside.ts';

export class MachineState {
  readonly #disk: EngineDisk;
  readonly #name: string | undefined;
  #isThere = false;

  /** `name` is that of a disk which may have one: open for writing, in the browser's storage. */
  constructor(disk: EngineDisk, name: string | undefined) {
    this.#disk = disk;
    this.#name = name;
  }

  /** Looks whether there is one. */
  async look(): Promise<void> {
    this.#isThere = this.#name !== undefined && (await describeState(this.#name)) !== undefined;
  }

  /** As BrowserDisk has it; `flush` brings the disk to storage first. */
  async save(state: Blob, flush: () => Promise<void>): Promise<void> {
    const name = this.#mustBePossible();
    await flush();
    const content = await this.#disk.contentId();
    await writeState(name, content, state);
    this.#isThere = true;
    if ((await this.#disk.contentId()) === content) return;
    this.outdate();
    throw new MillraceError(
      'ECHANGED',
      `disk '${name}' was written to while the state of its machine was saved: stop the machine first`,
    );
  }

  /** As BrowserDisk has it. */
  async read(): Promise<Blob | undefined> {
    return this.#isThere
      ? readState(this.#mustBePossible(), await this.#disk.contentId())
      : undefined;
  }

  /**
   * The disk is written to: the state is of no use any more. That it fits no other content does not
   * hang on this.
   */
  outdate(): void {
    if (!this.#isThere || this.#name === undefined) return;
    this.#isThere = false;
    void removeState(this.#name);
  }

  #mustBePossible(): string {
    if (this.#name !== undefined) return this.#name;
    throw new MillraceError(
      'EUNSUPPORTED',
      "the state of a machine is kept beside a disk that is open for writing in the browser's storage only",
    );
  }
}
