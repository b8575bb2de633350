/** The package as npm would publish it, in a project of its own. */
import { existsSync } from 'node:fs';
import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../support/run.ts';

export const ROOT: string = fileURLToPath(new URL('../..', import.meta.url));

/** Whether there is something to pack. */
export const isBuilt: boolean =
  existsSync(join(ROOT, 'dist/engine.wasm')) && existsSync(join(ROOT, 'dist/browser/worker.js'));

export interface Manifest {
  bin: Record<string, string>;
  exports: Record<string, unknown>;
  dependencies: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
}

export interface Project {
  folder: string;
  /** What npm would upload. */
  tarball: string;
  manifest: Manifest;
  /** A file of the installed package. */
  installed(path: string): string;
  /** Brings a package that is installed here into the project. */
  link(name: string): Promise<void>;
  remove(): Promise<void>;
}

/** What the package does not declare is not there, except for what a project itself brings. */
export async function makeProject(): Promise<Project> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'millrace-package-')));
  const installed = (path: string): string => join(folder, 'node_modules/millrace', path);
  const link = async (name: string): Promise<void> => {
    const place = join(folder, 'node_modules', name);
    await mkdir(dirname(place), { recursive: true });
    await symlink(join(ROOT, 'node_modules', name), place);
  };
  await run('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', folder], {
    cwd: ROOT,
  });
  const tarball = join(folder, (await readdir(folder))[0]);
  await mkdir(installed(''), { recursive: true });
  await run('tar', ['-xzf', tarball, '--strip-components=1', '-C', installed('')]);
  await writeFile(join(folder, 'package.json'), '{ "type": "module", "private": true }');
  const manifest = JSON.parse(await readFile(installed('package.json'), 'utf8')) as Manifest;
  for (const name of [...Object.keys(manifest.dependencies), '@types/node']) await link(name);
  const remove = (): Promise<void> => rm(folder, { recursive: true, force: true });
  return { folder, tarball, manifest, installed, link, remove };
}
