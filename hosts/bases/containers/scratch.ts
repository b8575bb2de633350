/** A file for what has passed of a source, where a runtime has files with names. */
import type { BlockFile } from '../../api/block.ts';

/** The file goes from its folder as soon as it is open where the system allows that, and else when it is closed. */
export async function scratchFile(
  open: (path: string) => Promise<BlockFile>,
  remove: (path: string) => Promise<void>,
  path: string,
): Promise<BlockFile> {
  const file = await open(path);
  const isGone = await remove(path).then(
    () => true,
    () => false,
  );
  return {
    get size() {
      return file.size;
    },
    name: file.name,
    read: (offset, into) => file.read(offset, into),
    write: (offset, from) => file.write(offset, from),
    flush: () => file.flush(),
    truncate: (size) => file.truncate(size),
    async close() {
      await file.close();
      if (!isGone) await remove(path);
    },
  };
}
