/**
 * Runs a worker of the tests in workerd, by Miniflare: bundled as a deployment does it, with the
 * engine and the decoder of xz as compiled modules.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { Miniflare } from 'miniflare';

const MODULES = ['hosts/engine.wasm', 'hosts/xz.wasm'];
const ROOT = fileURLToPath(new URL('../../', import.meta.url));

export interface WorkerOptions {
  /** The Durable Object's class, bound under the name in capitals. */
  object: string;
  bindings?: Record<string, string>;
  /** A folder where the objects' storage and the bucket outlive the worker. */
  persist?: string;
}

/**
 * Starts the module at `entry`, with one class of Durable Objects (over SQLite) and a bucket,
 * BUCKET.
 */
export async function startWorker(
  entry: URL,
  { object, bindings, persist }: WorkerOptions,
): Promise<Miniflare> {
  const bundle = await build({
    entryPoints: [fileURLToPath(entry)],
    bundle: true,
    format: 'esm',
    target: 'es2022',
    write: false,
    conditions: ['workerd'],
    external: ['*.wasm', 'node:*'],
  });
  const wasm = await Promise.all(
    MODULES.map(async (path) => ({
      type: 'CompiledWasm' as const,
      path,
      contents: await readFile(join(ROOT, path)),
    })),
  );
  const worker = new Miniflare({
    modules: [
      { type: 'ESModule', path: 'hosts/edge/worker.js', contents: bundle.outputFiles[0].text },
      ...wasm,
    ],
    compatibilityDate: '2026-07-01',
    compatibilityFlags: ['nodejs_compat'],
    durableObjects: { [object.toUpperCase()]: { className: object, useSQLite: true } },
    r2Buckets: ['BUCKET'],
    durableObjectsPersist: persist ?? false,
    r2Persist: persist === undefined ? false : join(persist, 'bucket'),
    bindings,
  });
  await worker.ready;
  return worker;
}
