/** A disk in a page, by Vite: `vite` or `vite build` in this folder. */
import { openDisk } from 'millrace/browser';

// An overlay in OPFS, the engine in a worker; the base may be a File, Blob or ArrayBuffer, too.
const disk = await openDisk({ overlay: 'vm', create: { base: '/base.raw' } });
await disk.stream({ onProgress: ({ remaining }) => (document.title = `${remaining} bytes left`) });
const file = await disk.exportQcow2();
document.title = `${disk.size} bytes, complete: a file of ${file.size}`;
await disk.close();
