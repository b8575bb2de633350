/** Makes one file of a program of ours, so that processes of it start at once. */
import { copyFile, mkdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

/**
 * Bundles `entry`, a file beside this one, into `dir`; the engine lies where the bundle looks for
 * it. Returns the bundle's path.
 */
export async function bundle(entry: string, dir: string): Promise<string> {
  const folder = join(dir, 'program', basename(entry, '.ts'));
  const outfile = join(folder, 'main.mjs');
  await mkdir(folder, { recursive: true });
  const entryPoints = [fileURLToPath(new URL(entry, import.meta.url))];
  await build({
    entryPoints,
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    logLevel: 'error',
  });
  await copyFile(
    new URL('../../hosts/engine.wasm', import.meta.url),
    join(dir, 'program', 'engine.wasm'),
  );
  return outfile;
}
