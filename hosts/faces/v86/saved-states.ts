/**
 * The states of a machine that were saved, and what takes its disk back to them: what writes have
 * replaced since then.
 */
import { MillraceError } from '../../api/errors.ts';

/**
 * What is kept for going back to a saved state; when the guest has overwritten more than this,
 * older states cannot be restored.
 */
const UNDO_BYTES_MAX = 256 * 1024 * 1024;

/** What a write has replaced, since a state was saved. */
export interface Undo {
  offset: number;
  length: number;
  bytes?: Uint8Array;
}

export class SavedStates {
  readonly #undo: Undo[] = [];
  /** The marks of states that were saved, and how long `#undo` was then. */
  readonly #states = new Map<string, number>();
  #undoBytes = 0;
  #written = false;

  /** Notes a state; returns its mark. */
  save(): string {
    // Pages that are not secure contexts have no randomUUID.
    const mark = crypto.getRandomValues(new Uint32Array(4)).join('-');
    this.#states.set(mark, this.#undo.length);
    return mark;
  }

  /** Makes room for what a write replaces, when there is a state to go back to. */
  wrote(offset: number, length: number): Undo | undefined {
    this.#written = true;
    if (this.#states.size === 0) return undefined;
    this.#undoBytes += length;
    if (this.#undoBytes > UNDO_BYTES_MAX) {
      this.#states.clear();
      this.#undo.length = this.#undoBytes = 0;
      return undefined;
    }
    const undo: Undo = { offset, length };
    this.#undo.push(undo);
    return undo;
  }

  /**
   * What is to be written back for a state, the latest first; undefined where the disk is as it was
   * then.
   * @throws MillraceError `ECHANGED` when the disk cannot be taken back to that state.
   */
  goBack(mark: string): Undo[] | undefined {
    const kept = this.#states.get(mark);
    if (kept === undefined) {
      if (this.#written)
        throw new MillraceError(
          'ECHANGED',
          'the disk has been written to since this state was saved, and cannot be taken back: restart the machine from the disk instead',
        );
      return undefined;
    }
    for (const [other, length] of this.#states) if (length > kept) this.#states.delete(other);
    const undone = this.#undo.splice(kept).reverse();
    for (const { length } of undone) this.#undoBytes -= length;
    return undone;
  }
}
