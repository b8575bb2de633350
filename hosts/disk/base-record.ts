/** What the header of an open overlay records of its base, and recording another one. */
import {
  IMAGE_IDENTITY_AT,
  IMAGE_IDENTITY_BYTES,
  KIND_REFER,
  OVERLAY,
  R_HEADER_FULL,
} from '../../engine/protocol.ts';
import { MillraceError } from '../api/errors.ts';
import type { DiskAccess } from './access.ts';
import type { Engine } from './driver/engine.ts';
import { reasonText } from './driver/reasons.ts';

export class BaseRecord {
  readonly #engine: Engine;
  readonly #access: DiskAccess;

  constructor(engine: Engine, access: DiskAccess) {
    this.#engine = engine;
    this.#access = access;
  }

  /** What identifies the base, as `refer` takes it. */
  identity(): string {
    const image = this.#engine.imageReport(OVERLAY);
    return this.#engine.texts
      .text(OVERLAY, image[IMAGE_IDENTITY_AT], image[IMAGE_IDENTITY_BYTES])
      .replace(/\0+$/, '');
  }

  /** Refuses what `refer` could not record, before work is put into it. */
  mustHaveRoom(name: string, format: string, identity: string): void {
    this.#access.mustBeWritable('record another base');
    if (!this.#engine.texts.setBacking(name, format, identity))
      throw new MillraceError(
        'EINVAL',
        `the name of the base is too long to be recorded: '${name}'`,
      );
    if (!this.#engine.exports.backingHasRoom())
      throw new MillraceError(
        'EUNSUPPORTED',
        `${this.#engine.name(OVERLAY)}: ${reasonText(R_HEADER_FULL)}`,
      );
  }

  /**
   * Records another base, or none by an empty name. The images of this disk stay as they are: close
   * it, and open it anew.
   */
  async refer(name: string, format: string, identity: string): Promise<void> {
    this.mustHaveRoom(name, format, identity);
    await this.#engine.request(KIND_REFER);
    this.#engine.texts.keep(OVERLAY);
  }
}
