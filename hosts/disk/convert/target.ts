/** The file that a copy is made in, or that it is written over. */
import type { BlockFile } from '../../api/block.ts';
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { CacheMode } from '../../api/open.ts';
import type { Runtime } from '../../api/runtime.ts';

/**
 * The file that is made. One that was there before is touched only where that was asked for, and
 * never removed.
 */
export class Target {
  readonly path: string;
  readonly existing: boolean;
  readonly #runtime: Runtime;
  readonly #signal: AbortSignal | undefined;
  #file: Promise<BlockFile> | undefined;
  /** Throws where what was made must not be kept. */
  beforeEnd: () => Promise<void> = async () => {};

  constructor(
    runtime: Runtime,
    path: string,
    { existing, signal }: { existing: boolean; signal?: AbortSignal },
  ) {
    this.#runtime = runtime;
    this.path = path;
    this.existing = existing;
    this.#signal = signal;
  }

  async make(cache: CacheMode | undefined): Promise<BlockFile> {
    this.#signal?.throwIfAborted();
    const mode = this.existing ? { fixed: true, cache } : { create: true, cache };
    this.#file = this.#runtime.openOverlay(this.path, mode);
    const file = await this.#file;
    const publish = file.publish?.bind(file);
    file.publish = async () => {
      await this.beforeEnd();
      await publish?.();
    };
    return file;
  }

  /** Removes what was made, if it was not finished, and says whether that was anything. */
  async remove(): Promise<boolean> {
    const file = await this.#file?.catch(() => undefined);
    if (this.existing || file === undefined) return false;
    await file.close();
    return true;
  }
}

/** What is read must not be written over. */
export async function mustBeAnother(runtime: Runtime, disk: Disk, target: string): Promise<void> {
  const realName = async (name: string): Promise<string> =>
    (await runtime.realName?.(name).catch(() => undefined)) ?? name;
  const own = await realName(target);
  for (const { name } of await disk.images())
    if ((await realName(name)) === own)
      throw new MillraceError('EINVAL', `${target} is an image that is to be copied from`);
}
