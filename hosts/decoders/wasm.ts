/** Decoders that are WebAssembly, which the package has as text (hosts/decoders.mjs). */
import { MillraceError, messageOf } from '../api/errors.ts';

/**
 * Compiles one when it is first needed; `load` gives base64 of what gzip made of it. What is
 * returned throws MillraceError `EUNSUPPORTED`.
 */
export function compiledOnce(
  format: string,
  load: () => Promise<{ default: string }>,
): () => Promise<WebAssembly.Module> {
  let compiling: Promise<WebAssembly.Module> | undefined;
  return () =>
    (compiling ??= compile(load).catch((cause) => {
      compiling = undefined;
      throw new MillraceError(
        'EUNSUPPORTED',
        `${format} cannot be read here: its decoder is WebAssembly, which this runtime does not compile (${messageOf(cause)})`,
        { cause },
      );
    }));
}

async function compile(load: () => Promise<{ default: string }>): Promise<WebAssembly.Module> {
  const { default: packed } = await load();
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return WebAssembly.compile(await new Response(unpacked).arrayBuffer());
}
