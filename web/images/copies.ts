/** Ways out of the browser for a disk, and in. */
import type { BrowserDisk } from '../../hosts/browser/index.ts';
import { exportDisk, importDisk, MillraceError, openDisk } from '../../hosts/browser/index.ts';
import { announce, chooseFile } from '../page/dom.ts';
import { bytes } from '../page/format.ts';
import type { Remedy } from '../page/notice.ts';
import { needsFile, showProblem } from '../page/problems.ts';
import { download, transfer } from '../page/transfer.ts';

const FILE_TYPE = 'application/octet-stream';

type Format = 'qcow2' | 'raw';

/**
 * Saves a disk as a file: `open` is the disk itself where it is in use by this page, `base` the
 * file it began with. Problems are shown.
 */
export async function saveDisk(
  name: string,
  format: Format,
  open?: BrowserDisk,
  base?: File,
): Promise<void> {
  const remedies = (error: unknown): Remedy[] =>
    needsFile(error)
      ? [
          {
            label: 'Choose the file…',
            act: () => chooseFile((file) => void saveDisk(name, format, open, file)),
          },
        ]
      : [];
  await transfer(
    `Exporting ${name}.${format}`,
    async ({ onProgress: progress, signal }) => {
      if (format === 'qcow2')
        return download(
          `${name}.qcow2`,
          open
            ? await open.exportQcow2({ onProgress: progress, signal })
            : await copyOf(name, progress, signal),
        );
      const disk = open ?? (await openDisk({ overlay: name, base, readOnly: true }));
      try {
        download(`${name}.raw`, await gather(disk.readable(), disk.size, progress, signal));
      } finally {
        if (!open) await disk.close();
      }
    },
    remedies,
  );
}

/**
 * Saves what the machine has read of its image so far, as a boot profile: beside the image on its
 * server, it makes the next boot quicker. Problems are shown.
 */
export async function saveProfile(name: string, disk: BrowserDisk): Promise<void> {
  try {
    const { data, ranges, bytes: read } = await disk.profile();
    download(`${name}.profile`, new Blob([data as Uint8Array<ArrayBuffer>], { type: FILE_TYPE }));
    announce(`The boot read ${bytes(read)} in ${ranges} places. Its profile is saved.`);
  } catch (error) {
    showProblem(error);
  }
}

/** Takes a file in as a disk of that name. Problems are shown. */
export async function takeDisk(name: string, file: File): Promise<void> {
  await transfer(`Importing ${file.name}, ${bytes(file.size)}`, ({ onProgress, signal }) =>
    importDisk(name, file, { onProgress, signal }),
  );
}

/**
 * Of the file of a closed disk. The file itself would not do: a download goes on when the disk is
 * at work again, and Firefox mixes the two.
 */
async function copyOf(
  name: string,
  progress: (done: number) => void,
  signal: AbortSignal,
): Promise<Blob> {
  const file = await exportDisk(name);
  const copy = await gather(file.stream(), file.size, progress, signal);
  const after = await exportDisk(name);
  if (after.lastModified !== file.lastModified || after.size !== file.size)
    throw new MillraceError(
      'EBUSY',
      `disk '${name}' was written to while it was copied: export it again`,
    );
  return copy;
}

async function gather(
  source: ReadableStream<Uint8Array>,
  size: number,
  progress: (done: number) => void,
  signal: AbortSignal,
): Promise<Blob> {
  let done = 0;
  const counted = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      done += chunk.length;
      progress(done / size);
      controller.enqueue(chunk);
    },
  });
  // The browser keeps what it gathers on its own storage when it is large.
  const blob = await new Response(
    source.pipeThrough(counted, { signal }) as ReadableStream<Uint8Array<ArrayBuffer>>,
  ).blob();
  return blob.slice(0, blob.size, FILE_TYPE);
}
