/**
 * What tells a disk's content, as its guest sees it, from that of other times: kept with the
 * overlay's file from one opening to the next. What a guest writes changes it; what a job or a read
 * brings into the overlay does not, nor that a base is no longer needed then.
 */
import type { BlockFile, BlockSource } from '../api/block.ts';
import { hex } from './hex.ts';

/** As it stands by the overlay's file, in JSON. */
interface Kept {
  id: string;
  /** What the images below were, from the nearest down. */
  bases: string[];
}

export class ContentId {
  /** Undefined where nothing can be kept. */
  readonly #keeper: Pick<BlockFile, 'keep'> | undefined;
  readonly #bases: readonly string[];
  readonly #first: string;
  /** Names the contents that come about in this opening. */
  readonly #opening: string = unique();
  /** Whether it is kept with the file: somebody has been told it, now or before. */
  #isKept = false;
  #changes = 0;
  #announcing: Promise<void> | undefined;

  /** `bases` are the images below the overlay, as far as they are open. */
  constructor(
    file: BlockSource & Partial<BlockFile>,
    bases: readonly BlockSource[],
    readOnly: boolean,
  ) {
    this.#keeper = readOnly || !file.keep ? undefined : file;
    const found = bases.map(identityOf);
    const kept = parse(file.kept);
    if (kept && endsWith(kept.bases, found)) {
      this.#bases = kept.bases;
      this.#first = kept.id;
      void this.#keep();
    } else {
      this.#bases = found;
      this.#first = JSON.stringify([identityOf(file), ...found]);
    }
  }

  /** Grows with every change of what the guest sees, at its begin and at its end. */
  get changes(): number {
    return this.#changes;
  }

  /** From the first time it is told, it is kept with the file. */
  async tell(): Promise<string> {
    if (!this.#isKept) await this.#keep();
    return this.#id;
  }

  get #id(): string {
    return this.#changes === 0 ? this.#first : `${this.#opening}.${this.#changes}`;
  }

  /**
   * Runs what changes the content. Before the first change, what is kept is taken away: should this
   * process end in the midst of it, nobody takes the new content for the old one.
   */
  async changing(work: () => Promise<void>): Promise<void> {
    if (this.#changes++ === 0 && this.#isKept) this.#announcing = this.#forget();
    try {
      // Without a turn in between: what is asked for afterwards comes after it.
      if (this.#announcing) await this.#announcing;
      await work();
    } finally {
      this.#changes++;
    }
  }

  /** Called before the file is closed, when all that was written is in it. */
  async closing(): Promise<void> {
    if (this.#isKept && this.#changes > 0) await this.#keep();
  }

  async #forget(): Promise<void> {
    await this.#keeper?.keep?.('');
    this.#announcing = undefined;
  }

  /** It is of use, and not needed: where it cannot be kept, it is another one the next time. */
  async #keep(): Promise<void> {
    this.#isKept = true;
    const kept: Kept = { id: this.#id, bases: [...this.#bases] };
    try {
      await this.#keeper?.keep?.(JSON.stringify(kept));
    } catch {
      // What fails of the storage shows in what is needed of it.
    }
  }
}

/** Of what cannot be told from others, nothing is known: another one each time. */
function identityOf(source: BlockSource): string {
  return source.identity ?? unique();
}

/** A page without a secure context has no `randomUUID`. */
function unique(): string {
  return hex(crypto.getRandomValues(new Uint8Array(16)));
}

function parse(text: string | undefined): Kept | undefined {
  try {
    const kept = JSON.parse(text ?? '') as Kept;
    return typeof kept.id === 'string' && Array.isArray(kept.bases) ? kept : undefined;
  } catch {
    return undefined;
  }
}

/** A job makes an image further down the base, or leaves none at all: the content stays. */
function endsWith(bases: readonly string[], rest: readonly string[]): boolean {
  const start = bases.length - rest.length;
  return start >= 0 && rest.every((identity, index) => identity === bases[start + index]);
}
