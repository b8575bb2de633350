/** A file for what has passed of a base that is read in one pass (bases/containers). */
import type { BlockFile } from '../api/block.ts';
import type { Files } from './file.ts';

/**
 * Beside the overlay there is room for a disk; without one, in a folder for temporary files. The
 * file is never published, so that it goes when it is closed; what a killed process has left is
 * taken away by the next.
 */
export async function scratchFile(
  files: Files,
  { beside, temporary }: { beside: string | undefined; temporary: string },
): Promise<BlockFile> {
  const make = (path: string) => files.makeFile(`${path}.pass`, { cache: 'unsafe' });
  const own = crypto.randomUUID();
  if (beside === undefined) return make(`${temporary}/millrace-${own}`);
  // Another base of the same overlay has that name, or a file of somebody else.
  return make(beside).catch(() => make(`${beside}.${own}`));
}
