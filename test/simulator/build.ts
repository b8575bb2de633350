/**
 * Builds the engine from its sources as they are, or as rewritten on the way to the compiler. Never
 * touches `hosts/engine.wasm`.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const OUTPUT = 'engine.wasm';

/**
 * `rewrite` is given each source of the engine, by its path from the root of the project; `more`
 * are sources that it has besides.
 * @throws what the compiler says against it.
 */
export async function buildEngine(
  rewrite: (path: string, source: string) => string,
  options: string[] = [],
  more: Readonly<Record<string, string>> = {},
): Promise<WebAssembly.Module> {
  let binary: Uint8Array | undefined;
  const { error, stderr } = await asc.main(
    ['engine/index.ts', '--target', 'release', '--outFile', OUTPUT, ...options],
    {
      readFile: async (name, folder) => {
        if (Object.hasOwn(more, name)) return more[name];
        const source = await readFile(join(ROOT, folder, name), 'utf8').catch(() => null);
        return source !== null && name.startsWith('engine/') ? rewrite(name, source) : source;
      },
      writeFile: (name, content) => void (name === OUTPUT && (binary = content as Uint8Array)),
    },
  );
  if (error || !binary)
    throw new Error(`the engine does not compile: ${error?.message ?? ''}\n${stderr.toString()}`);
  return new WebAssembly.Module(binary.slice());
}
