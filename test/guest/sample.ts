/**
 * Puts the guest beside the console's page as its sample: `npm run web:sample`, then `npm run
 * web:dev` or `npm run web:build`.
 */
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeGuest } from './guest.ts';

const folder = fileURLToPath(new URL('../../web/public/', import.meta.url));
const guest = await makeGuest();
await mkdir(folder, { recursive: true });
await copyFile(guest.path, join(folder, guest.file));
const sample = {
  name: 'A small Debian',
  text: 'a shell on the serial console',
  url: guest.file,
  size: guest.size,
};
await writeFile(join(folder, 'samples.json'), `${JSON.stringify([sample], undefined, 2)}\n`);
