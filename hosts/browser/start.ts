/**
 * Starting a worker, and telling why the page's policy (Content Security Policy, Trusted Types)
 * does not let it.
 */
import { MillraceError } from '../api/errors.ts';
import type { ProgramOptions } from './api.ts';
import { ownEngine, startOwnWorker } from './program.ts';
import { POLICY, startScript } from './script.ts';

/** The engine as it is sent to a worker: its address, its bytes, or the compiled module. */
export type SentEngine = string | Uint8Array | WebAssembly.Module;

/** A browser tells what its policy forbids beside the error, before or soon after it. */
const VIOLATION_MS = 100;

/** What a worker needs beside its script. */
export async function engineOf({ wasm, wasmUrl }: ProgramOptions): Promise<SentEngine> {
  if (wasm !== undefined && !(wasm instanceof WebAssembly.Module))
    throw new MillraceError('EINVAL', 'wasm is a WebAssembly.Module, the compiled engine');
  return wasm ?? (wasmUrl === undefined ? ownEngine() : absolute(wasmUrl));
}

/**
 * Starts the worker of `what`. @throws MillraceError `EACCES` when the page's policy forbids it.
 */
export async function startWorker(what: string, { workerUrl }: ProgramOptions): Promise<Worker> {
  if (!('document' in globalThis || 'WorkerGlobalScope' in globalThis))
    throw new MillraceError(
      'EUNSUPPORTED',
      "'millrace/browser' is for pages and their workers: in Node, Bun and Deno, import 'millrace'",
    );
  try {
    return workerUrl === undefined ? await startOwnWorker() : startScript(absolute(workerUrl));
  } catch (cause) {
    const { name, message } = cause as Error;
    if (name === 'SecurityError') throw forbidden(what, 'worker-src', cause);
    if (/trusted ?type|policy|TrustedScriptURL/i.test(message))
      throw forbidden(what, 'trusted-types', cause);
    throw new MillraceError('EIO', `${what} cannot run: ${message}`, {
      cause,
      reason: 'worker-ended',
    });
  }
}

function absolute(url: string | URL): string {
  return new URL(url, globalThis.document?.baseURI ?? location.href).href;
}

/** Hears what the page's policy forbids while a worker starts. */
export class PolicyWatch {
  readonly #ended = new AbortController();
  #directive: string | undefined;

  constructor() {
    globalThis.document?.addEventListener(
      'securitypolicyviolation',
      ({ effectiveDirective }) => {
        if (/^(worker|child|script|default)-src|^trusted-types/.test(effectiveDirective))
          this.#directive = effectiveDirective;
      },
      { signal: this.#ended.signal },
    );
  }

  end(): void {
    this.#ended.abort();
  }

  /** Why a worker did not start, if it was for that. */
  async explain(what: string): Promise<MillraceError | undefined> {
    if (this.#directive === undefined)
      await new Promise((resolve) => setTimeout(resolve, VIOLATION_MS));
    return this.#directive === undefined ? undefined : forbidden(what, this.#directive);
  }
}

function forbidden(what: string, directive: string, cause?: unknown): MillraceError {
  const advice = directive.startsWith('trusted-types')
    ? `trusted-types ${POLICY}`
    : "worker-src blob:, or worker-src 'self' with workerUrl, the address of millrace/browser/worker.js on this server";
  return new MillraceError(
    'EACCES',
    `${what} may not run: the page's Content-Security-Policy forbids it (${directive}); allow ${advice}`,
    { cause, reason: 'policy' },
  );
}
