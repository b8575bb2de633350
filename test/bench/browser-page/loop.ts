/** The plainest way to get an image into a file: fetch it, and write each piece as it comes. */
import type { SyncFile } from '../../../hosts/browser/batch.ts';

/**
 * The calls of a synchronous access handle that the loop needs; the types of this project know
 * pages only.
 */
type Handle = Pick<SyncFile, 'flush' | 'close'> & {
  write(from: Uint8Array, options: { at: number }): number;
};

addEventListener(
  'message',
  async ({ data: { image, file } }: MessageEvent<{ image: string; file: string }>) => {
    const entry = await (await navigator.storage.getDirectory()).getFileHandle(file, {
      create: true,
    });
    const handle = await (
      entry as unknown as { createSyncAccessHandle(): Promise<Handle> }
    ).createSyncAccessHandle();
    const reader = (await fetch(image, { cache: 'no-store' })).body!.getReader();
    let at = 0;
    for (let next = await reader.read(); !next.done; next = await reader.read())
      at += handle.write(next.value, { at });
    handle.flush();
    handle.close();
    postMessage(at);
  },
);
