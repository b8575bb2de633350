/**
 * What QEMU's own check says of the simulator's images: of one in so many, since each takes a
 * process.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** How `qemu-img check` ends. */
const SOUND = 0;
const LEAKS = 3;

export class QemuSample {
  /** Images that were checked. */
  checked = 0;
  readonly #one: number;
  readonly #folder: string = mkdtempSync(join(tmpdir(), 'millrace-simulator-'));
  #seen = 0;

  /** `one` in so many images is checked. */
  constructor(one: number) {
    this.#one = one;
  }

  /**
   * An overlay's file, as it is after a cut, or after a close.
   * @throws when qemu-img finds more wrong than a cut may leave behind.
   */
  look(file: Uint8Array, closed: boolean): void {
    if (this.#seen++ % this.#one) return;
    const path = join(this.#folder, 'overlay.qcow2');
    writeFileSync(path, file);
    // The base stays out of it: a check looks at the overlay alone.
    const image = JSON.stringify({
      driver: 'qcow2',
      file: { driver: 'file', filename: path },
      backing: null,
    });
    const { status, stdout, stderr, error } = spawnSync('qemu-img', ['check', `json:${image}`], {
      encoding: 'utf8',
    });
    if (error) throw error;
    this.checked++;
    if (status === SOUND || (status === LEAKS && !closed)) return;
    throw new Error(
      `qemu-img check ends with ${status} after a ${closed ? 'close' : 'cut'}: ${stdout}${stderr}`,
    );
  }

  end(): void {
    rmSync(this.#folder, { recursive: true });
  }
}
