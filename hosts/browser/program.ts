/**
 * Where the worker's program and the engine are, in the sources: Vite finds both by their
 * addresses. The package has `packed.ts` in place of this module (hosts/build.mjs), since other
 * bundlers do not.
 */

export async function startOwnWorker(): Promise<Worker> {
  return new Worker(new URL('./worker.ts', import.meta.url), { type: 'module', name: 'millrace' });
}

/** The engine's address, or its bytes. */
export async function ownEngine(): Promise<string | Uint8Array> {
  return new URL('../engine.wasm', import.meta.url).href;
}
