/**
 * What tells the content of a served disk from that of other times, though the object is lost now
 * and then and opens it again: an id that is kept as long as nobody but the object's own handler,
 * which writes to no disk, has had the overlay open for writing.
 */
import type { BaseLocation } from '../api/disk.ts';
import type { Runtime } from '../api/runtime.ts';
import { identityOf, notingBases } from '../bases/identities.ts';
import type { ObjectStorage } from './platform.ts';
import type { Written } from './writers.ts';

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS millrace_contents (device TEXT PRIMARY KEY, id TEXT NOT NULL, writer TEXT NOT NULL, bases TEXT NOT NULL);
`;

/** A content that is known, as it stands in the storage. */
interface Known {
  id: string;
  /** Who opened the overlay last. */
  writer: string;
  /** What the bases were, from the nearest down: their identities as JSON. */
  bases: string;
}

export class Contents {
  readonly #storage: ObjectStorage;
  readonly #ids = new Map<string, string>();

  constructor(storage: ObjectStorage) {
    this.#storage = storage;
    storage.sql.exec(SCHEMA);
  }

  /** Of a disk that was opened by `open`. */
  idOf(device: string): string | undefined {
    return this.#ids.get(device);
  }

  /**
   * Opens a disk, whose base may be given as an opened source, by a runtime that notes what is
   * opened for it.
   */
  async open<T>(
    device: string,
    runtime: Runtime,
    base: BaseLocation | undefined,
    open: (noting: Runtime) => Promise<T>,
  ): Promise<T> {
    let writer = '';
    let bases: string[] = [];
    const noting: Runtime = {
      ...notingBases(runtime, (identity) => bases.push(identity)),
      openOverlay: async (name, mode) => {
        const file = await runtime.openOverlay(name, mode);
        if (mode.readOnly) return file;
        writer = this.#taken(device, file as Written);
        // A new one is made when its bases are open; another is opened before them, and perhaps
        // more than once.
        if (!mode.create) bases = [];
        return file;
      },
    };
    const opened = await open(noting);
    if (typeof base === 'object' && !(base instanceof URL)) bases.unshift(identityOf(base));
    const known = this.#known(device);
    const id =
      known && endsWith(JSON.parse(known.bases) as string[], bases)
        ? known.id
        : crypto.randomUUID();
    this.#keep(device, { id, writer, bases: JSON.stringify(bases) });
    this.#ids.set(device, id);
    return opened;
  }

  /** Whatever becomes of the opening, its mark is at the overlay now. */
  #taken(device: string, { writer, writerBefore }: Written): string {
    const known = this.#known(device);
    if (known && known.writer === writerBefore) this.#keep(device, { ...known, writer: writer! });
    else this.#storage.sql.exec('DELETE FROM millrace_contents WHERE device = ?', device);
    return writer!;
  }

  #known(device: string): Known | undefined {
    return (
      this.#storage.sql
        .exec('SELECT id, writer, bases FROM millrace_contents WHERE device = ?', device)
        .toArray() as unknown as Known[]
    )[0];
  }

  #keep(device: string, { id, writer, bases }: Known): void {
    this.#storage.sql.exec(
      'INSERT OR REPLACE INTO millrace_contents (device, id, writer, bases) VALUES (?, ?, ?, ?)',
      device,
      id,
      writer,
      bases,
    );
  }
}

/**
 * A job makes an image further down the base, or leaves none at all: the content stays the same.
 */
function endsWith(bases: readonly string[], rest: readonly string[]): boolean {
  return (
    rest.length <= bases.length &&
    rest.every((identity, index) => identity === bases[bases.length - rest.length + index])
  );
}
