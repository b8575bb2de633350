/** Compiling the engine in a worker, and why that may not be. */
import { MillraceError } from '../api/errors.ts';
import type { SentEngine } from './start.ts';

/**
 * @throws MillraceError `EACCES` when the policy of the page or of the worker's script forbids it,
 *   `EIO` when the engine is not where it was said to be, or is none.
 */
export async function compileEngine(engine: SentEngine): Promise<WebAssembly.Module> {
  if (engine instanceof WebAssembly.Module) return engine;
  try {
    return typeof engine === 'string'
      ? await compileFrom(engine)
      : await WebAssembly.compile(engine as Uint8Array<ArrayBuffer>);
  } catch (cause) {
    if (cause instanceof MillraceError) throw cause;
    const { message } = cause as Error;
    // Neither browser has a type or a code for it.
    if (/content security policy|blocked by csp|unsafe-eval/i.test(message))
      throw new MillraceError(
        'EACCES',
        "cannot compile the engine: the Content-Security-Policy forbids WebAssembly; allow script-src 'wasm-unsafe-eval', for the page and, with workerUrl, for the worker's script",
        { cause, reason: 'policy' },
      );
    const where = typeof engine === 'string' ? ` from ${engine}` : '';
    throw new MillraceError('EIO', `cannot load the engine${where}: ${message}`, {
      cause,
      reason: 'engine-failed',
    });
  }
}

async function compileFrom(url: string): Promise<WebAssembly.Module> {
  const response = await fetch(url);
  if (!response.ok)
    throw new MillraceError(
      'EIO',
      `cannot load the engine: ${url} answered ${response.status}; serve engine.wasm there, or leave wasmUrl out`,
      { reason: 'engine-failed' },
    );
  const isWasm = response.headers.get('Content-Type')?.split(';')[0].trim() === 'application/wasm';
  // A server that does not know the type of wasm costs the compiling while it loads, no more.
  return isWasm
    ? WebAssembly.compileStreaming(response)
    : WebAssembly.compile(await response.arrayBuffer());
}
