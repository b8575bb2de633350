/**
 * What a runtime (Node, Deno) brings to the command line. The commands know no other way to reach
 * the terminal, the process and the files, so that they run unchanged wherever a runtime's entry
 * point fills this in.
 */

import type { Runtime } from '../../api/runtime.ts';
import type { HttpOptions, HttpSource } from '../../bases/http/http.ts';
import type { NbdBaseOptions, NbdSource } from '../../bases/nbd/nbd.ts';
import type { CacheFolder } from '../../disk/base-cache.ts';
import type { Handler, Listening } from '../http/handler.ts';
import type { NbdAddress, NbdListening, NbdTls } from '../nbd/listen.ts';
import type { NbdServer } from '../nbd/server.ts';

/** Where a command writes. */
export interface Output {
  /** Writes all of it; a promise where the reader is slower than we are. */
  write(text: string): void | Promise<void>;
  readonly isTTY: boolean;
  /** Characters a line; undefined where there is no terminal. */
  readonly columns: number | undefined;
}

export interface Platform {
  /** Opens files and bases, and brings the engine. */
  readonly runtime: Runtime;
  /** Opens what a URL leads to, with headers and the like; without any, as the runtime does. */
  openHttp(url: string, options: HttpOptions): Promise<HttpSource>;
  /** Opens what an NBD URI leads to; without options as the runtime does. */
  openNbd(uri: string, options: NbdBaseOptions): Promise<NbdSource>;
  /** The operations of the cache of bases. */
  readonly cacheFolder: CacheFolder;
  readonly version: string;
  /** What lets this program take locks that QEMU sees, where it does not. */
  readonly lockAdvice: string;
  readonly stdout: Output;
  readonly stderr: Output;
  /**
   * Calls `handler` each time the user asks the program to stop (SIGINT, SIGTERM, SIGHUP) until the
   * returned function is called.
   */
  onInterrupt(handler: (signal: number) => void): () => void;
  /** Ends the process at once. */
  exit(code: number): never;
  /** Bytes that a local file takes on its storage; undefined where that cannot be told. */
  allocatedBytes(path: string): Promise<number | undefined>;
  /** Names of what is in a folder. */
  listFolder?(path: string): Promise<string[]>;
  /** The page that `serve` answers people at `/`, by gzip; undefined where it is not built. */
  servedPage?(): Promise<Uint8Array<ArrayBuffer> | undefined>;
  /** Answers HTTP requests at an address until it is closed; port 0 takes a free one. */
  serve(handler: Handler, address: { hostname: string; port: number }): Promise<Listening>;
  /**
   * Serves NBD at an address, `systemd` for the socket that the process was given; undefined where
   * that cannot be done.
   */
  listenNbd?(
    server: NbdServer,
    address: NbdAddress | 'systemd',
    tls?: NbdTls,
  ): Promise<NbdListening>;
}

/** Addresses that only this machine reaches. */
export const LOOPBACK: RegExp = /^(localhost|127(\.\d{1,3}){3}|\[::1\]|::1)$/i;

/**
 * Exit codes of every command: what `qemu-img` has, and what a shell has for a program ended by
 * Ctrl-C (128 + SIGINT).
 */
export const EXIT_OK = 0;
export const EXIT_FAILED = 1;
export const EXIT_INTERRUPTED = 130;
/** Signals that ask a program to stop, by their numbers: its exit code is 128 more. */
export const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
export const EXIT_BY_SIGNAL = 128;
/**
 * Nobody reads any more what is written (`millrace map … | head`): nothing to complain about, but
 * the command has not done all of its work. As a shell has it for a program ended by SIGPIPE.
 */
export const EXIT_READER_GONE = 141;

/** What draws on the current line of a terminal, and can write a line above. */
export interface Drawing {
  note(text: string): void;
}

const drawings = new WeakMap<Output, Drawing>();

/** From now on, what is told there goes above the drawing; undefined: there is none any more. */
export function drawOn(output: Output, drawing: Drawing | undefined): void {
  if (drawing) drawings.set(output, drawing);
  else drawings.delete(output);
}

/** Writes a line for the user, which is no part of a command's result. */
export function tell({ stderr }: Platform, message: string): void | Promise<void> {
  const line = `millrace: ${printable(message.replace(/\s*\n\s*/g, ' '))}`;
  const drawing = drawings.get(stderr);
  return drawing ? drawing.note(line) : stderr.write(`${line}\n`);
}

/**
 * A line without control characters: names that stand in an image are its author's choice, and a
 * terminal may act on them.
 */
export function printable(line: string): string {
  return line.replace(/\p{Cc}/gu, '?');
}
