/** A disk in a page, by Vite: `vite` or `vite build` in this folder. */
import { openDisk } from 'millrace/browser';

const disk = await openDisk({ overlay: 'vm', create: { base: '/base.raw' } });
await disk.stream();
document.title = `${disk.size} bytes, complete`;
await disk.close();
