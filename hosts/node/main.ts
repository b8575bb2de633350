#!/usr/bin/env node
/** The program `millrace` under Node: what the shared command line needs of this runtime. */
import { readFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import process from 'node:process';
import { MillraceError } from '../api/errors.ts';
import type { Output, Platform } from '../faces/cli/platform.ts';
import { EXIT_FAILED, EXIT_READER_GONE, SIGNALS } from '../faces/cli/platform.ts';
import { runCommandLine } from '../faces/cli/program.ts';
import { fileError } from './file.ts';
import { openHttp } from './http.ts';
import { activatedSocket, listenNbd } from './nbd.ts';
import { localPath, nodeRuntime } from './runtime.ts';
import { serve } from './serve.ts';

/** stat(2) counts in these, whatever the file system's own blocks are. */
const STAT_BLOCK_BYTES = 512;

const { version } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string };

const platform: Platform = {
  runtime: nodeRuntime,
  openHttp,
  version,
  stdout: outputTo(process.stdout),
  stderr: outputTo(process.stderr),
  onInterrupt(handler) {
    const listener = (_: NodeJS.Signals, number: number): void => handler(number);
    const signals = Object.keys(SIGNALS) as (keyof typeof SIGNALS)[];
    for (const signal of signals) process.on(signal, listener);
    return () => {
      for (const signal of signals) process.removeListener(signal, listener);
    };
  },
  exit: (code) => process.exit(code),
  async allocatedBytes(path) {
    return (await stat(localPath(path))).blocks * STAT_BLOCK_BYTES;
  },
  serve,
  async listenNbd(server, address, tls) {
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

function outputTo(stream: NodeJS.WriteStream): Output {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT_READER_GONE);
    if (stream !== process.stderr)
      process.stderr.write(
        `millrace: ${fileError('write to', 'standard output', error).message}\n`,
      );
    process.exit(EXIT_FAILED);
  });
  return {
    write(text) {
      // Where the reader is slow, what was not taken yet would pile up in memory.
      if (!stream.write(text)) return new Promise((resolve) => stream.once('drain', resolve));
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

const exitCode = await runCommandLine(platform, process.argv.slice(2));
// Connections kept alive must not keep the process; what was written must still arrive.
await Promise.all(
  [process.stdout, process.stderr].map(
    (stream) =>
      new Promise<void>((resolve) => {
        stream.write('', () => resolve());
      }),
  ),
);
process.exit(exitCode);
