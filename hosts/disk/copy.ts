/**
 * A copy of all that a disk shows, as an image that stands alone: an overlay over it that has been
 * streamed whole. It is there under its name only once it is whole.
 */
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import type { CreateOptions } from '../api/open.ts';
import type { Runtime } from '../api/runtime.ts';
import { createDiskWith } from './open.ts';

/** What is copied, as the base of an overlay. */
export interface CopySource extends CreateOptions {
  /** A path or name. */
  overlay: string;
}

/** How a copy is made. */
export interface CopyOptions {
  /** Gives the copy up. */
  signal?: AbortSignal;
  /** `full`: zeros take space too. */
  allocate?: StreamOptions['allocate'];
  /** Told the size first; what it returns then hears of the job. */
  begin?: (size: number) => (info: StreamInfo) => void;
}

/** Makes the copy, and gives its size in bytes. What does not get finished leaves nothing. */
export async function copyWith(
  runtime: Runtime,
  source: CopySource,
  { signal, allocate, begin }: CopyOptions,
): Promise<number> {
  const { overlay, cache, ...options } = source;
  const file = await runtime.openOverlay(overlay, { create: true, cache });
  const disk = await createDiskWith(runtime, { ...options, overlay: file }).catch(async (error) => {
    await Promise.resolve(file.close()).catch(() => {});
    throw error;
  });
  const { size } = disk;
  try {
    const progress = begin?.(size);
    if (progress) disk.addEventListener('progress', (event) => progress(event.detail));
    await disk.stream({ signal, allocate });
    await disk.settle();
    await file.publish?.();
  } catch (error) {
    await disk.close().catch(() => {});
    throw error;
  }
  await disk.close();
  return size;
}
