/** What the shared command line needs of Node. What only some commands need is loaded by these. */
import { closeSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import process from 'node:process';
import { isatty } from 'node:tty';
import { MillraceError } from '../api/errors.ts';
import type { Output, Platform } from '../faces/cli/platform.ts';
import { EXIT_FAILED, EXIT_READER_GONE, SIGNALS } from '../faces/cli/platform.ts';
import { runCommandLine } from '../faces/cli/program.ts';
import { cacheFolder } from './base-cache.ts';
import { fileError } from './file.ts';
import { openHttp } from './http.ts';
import { openNbd } from './nbd-base.ts';
import { localPath, nodeRuntime } from './runtime.ts';

/** stat(2) counts in these, whatever the file system's own blocks are. */
const STAT_BLOCK_BYTES = 512;

/** The standard streams that are terminals, by their descriptors. */
const TERMINALS: readonly number[] = [0, 1, 2].filter((fd) => isatty(fd));

/** A terminal that was closed is none any more. */
function hasGone(fd: number): boolean {
  return TERMINALS.includes(fd) && !isatty(fd);
}

/** What is called when the user asks the program to stop. */
const interrupted = new Set<(signal: number) => void>();

function hangUp(): void {
  for (const handler of interrupted) handler(SIGNALS.SIGHUP);
}

// At its end, Node gives terminals back as they were, and aborts where one has gone.
process.on('exit', () => {
  for (const fd of TERMINALS) if (hasGone(fd)) closeSync(fd);
});

const platform: Omit<Platform, 'version'> = {
  runtime: nodeRuntime,
  lockAdvice: 'with the package koffi beside this one, it is told: npm install koffi',
  openHttp,
  cacheFolder,
  openNbd,
  stdout: outputTo(process.stdout, 1),
  stderr: outputTo(process.stderr, 2),
  onInterrupt(handler) {
    const listener = (_: NodeJS.Signals, number: number): void => handler(number);
    const signals = Object.keys(SIGNALS) as (keyof typeof SIGNALS)[];
    for (const signal of signals) process.on(signal, listener);
    interrupted.add(handler);
    return () => {
      interrupted.delete(handler);
      for (const signal of signals) process.removeListener(signal, listener);
    };
  },
  exit: (code) => process.exit(code),
  async allocatedBytes(path) {
    return (await stat(localPath(path))).blocks * STAT_BLOCK_BYTES;
  },
  listFolder: (path) => readdir(path),
  // Beside the engine, wherever this module ends up: see hosts/build.mjs.
  servedPage: () => readFile(new URL('../served.html.gz', import.meta.url)).catch(() => undefined),
  async serve(handler, address) {
    const { listen } = await import('./serve.ts');
    return listen(handler, address);
  },
  async listenNbd(server, address, tls) {
    const { activatedSocket, listenNbd } = await import('./nbd.ts');
    if (address !== 'systemd') return listenNbd(server, address, { tls });
    const socket = activatedSocket(process.env, process.pid);
    if (socket === undefined)
      throw new MillraceError(
        'ENOENT',
        'there is no socket of systemd: start this by a socket unit (LISTEN_FDS)',
      );
    return listenNbd(server, socket, { tls });
  },
};

function outputTo(stream: NodeJS.WriteStream, fd: number): Output {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    // The command ends as at the signal, which only the terminal's own session is sent.
    if (hasGone(fd)) return hangUp();
    if (error.code === 'EPIPE') process.exit(EXIT_READER_GONE);
    if (stream !== process.stderr)
      process.stderr.write(
        `millrace: ${fileError('write to', 'standard output', error).message}\n`,
      );
    process.exit(EXIT_FAILED);
  });
  return {
    write(text) {
      if (hasGone(fd)) return hangUp();
      // Where the reader is slow, what was not taken yet would pile up in memory.
      if (!stream.write(text)) return drained(stream);
    },
    get isTTY() {
      return stream.isTTY === true;
    },
    // Some terminals do not tell: they have 0.
    get columns() {
      return stream.columns || undefined;
    },
  };
}

function drained(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      stream.removeListener('drain', done).removeListener('error', done);
      resolve();
    };
    stream.on('drain', done).on('error', done);
  });
}

/** Runs a command line to its end, which is the end of the process. */
export async function runProgram(version: string, args: readonly string[]): Promise<never> {
  const exitCode = await runCommandLine({ ...platform, version }, args);
  // Connections kept alive must not keep the process; what was written must still arrive.
  await Promise.all([process.stdout, process.stderr].map(written));
  return process.exit(exitCode);
}

/** Resolves when all that was written has arrived, or cannot any more. */
function written(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    stream.once('error', () => resolve());
    stream.write('', () => resolve());
  });
}
