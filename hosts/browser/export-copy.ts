/** A copy of an open overlay, as a file that a page can save. */
import type { BatchedFile } from './batch.ts';
import type { Report } from './wire.ts';

const COPY_BYTES = 4 * 1024 * 1024;
const QCOW2_TYPE = 'application/x-qemu-disk';

/** The overlay's bytes as they are now; what is written meanwhile does not reach them. */
export function copyOf(overlay: BatchedFile, report: Report): Promise<Blob> {
  return overlay.unchanged(async (file) => {
    const parts: Blob[] = [];
    for (let at = 0; at < overlay.size; at += COPY_BYTES) {
      const bytes = new Uint8Array(Math.min(COPY_BYTES, overlay.size - at));
      file.read(at, bytes);
      parts.push(new Blob([bytes]));
      // Reads of the guest get their turn meanwhile.
      await report(Math.min(1, (at + COPY_BYTES) / overlay.size));
    }
    return new Blob(parts, { type: QCOW2_TYPE });
  });
}
