/**
 * The program `millrace` under Deno: what the shared command line needs of this runtime. A command
 * needs the permissions of the files and hosts it uses (`--allow-read`, `--allow-write`,
 * `--allow-net`), and none besides.
 */
import manifest from '../../deno.json' with { type: 'json' };
import { MillraceError } from '../api/errors.ts';
import type { Output, Platform } from '../faces/cli/platform.ts';
import { EXIT_READER_GONE, SIGNALS } from '../faces/cli/platform.ts';
import { runCommandLine } from '../faces/cli/program.ts';
import type { Handler, Listening } from '../faces/http/handler.ts';
import { cacheFolder } from './base-cache.ts';
import { fileError } from './file.ts';
import { openHttp } from './http.ts';
import { openNbd } from './nbd-base.ts';
import { denoRuntime, localPath } from './runtime.ts';

/** stat(2) counts in these, whatever the file system's own blocks are. */
const STAT_BLOCK_BYTES = 512;

/** What is called when the user asks the program to stop. */
const interrupted = new Set<(signal: number) => void>();

const platform: Platform = {
  runtime: denoRuntime,
  openHttp,
  openNbd,
  cacheFolder,
  version: manifest.version,
  lockAdvice: 'with -A, Deno tells it',
  stdout: outputTo(Deno.stdout),
  stderr: outputTo(Deno.stderr),
  onInterrupt(handler) {
    const listeners = (Object.entries(SIGNALS) as [Deno.Signal, number][])
      .filter(([signal]) => Deno.build.os !== 'windows' || signal === 'SIGINT')
      .map(([signal, number]) => [signal, () => handler(number)] as const);
    for (const [signal, listener] of listeners) Deno.addSignalListener(signal, listener);
    interrupted.add(handler);
    return () => {
      interrupted.delete(handler);
      for (const [signal, listener] of listeners) Deno.removeSignalListener(signal, listener);
    };
  },
  exit: (code) => Deno.exit(code),
  async allocatedBytes(path) {
    const { blocks } = await Deno.stat(localPath(path));
    return blocks === null ? undefined : blocks * STAT_BLOCK_BYTES;
  },
  async listFolder(path) {
    const names: string[] = [];
    for await (const { name } of Deno.readDir(path)) names.push(name);
    return names;
  },
  servedPage: () =>
    Deno.readFile(new URL('../served.html.gz', import.meta.url)).catch(() => undefined),
  async serve(handler, address) {
    return listen(handler, address);
  },
  async listenNbd(server, address, tls) {
    if (address === 'systemd')
      throw new MillraceError('EUNSUPPORTED', "systemd's socket cannot be had under Deno");
    const { listenNbd } = await import('../faces/nbd/listen.ts');
    return listenNbd(server, address, { tls });
  },
};

function outputTo(stream: typeof Deno.stdout): Output {
  const isTerminal = stream.isTerminal();
  let hasGone = false;
  return {
    write(text) {
      if (hasGone) return;
      try {
        for (let bytes = new TextEncoder().encode(text); bytes.length > 0; )
          bytes = bytes.subarray(stream.writeSync(bytes));
      } catch (error) {
        if (error instanceof Deno.errors.BrokenPipe) Deno.exit(EXIT_READER_GONE);
        hasGone = isTerminal && !stream.isTerminal();
        // The command ends as at the signal, which only the terminal's own session is sent.
        if (hasGone) return queueMicrotask(hangUp);
        throw fileError('write to', 'standard output', error);
      }
    },
    get isTTY() {
      return stream.isTerminal();
    },
    // Some terminals do not tell: they have 0.
    get columns() {
      return (stream.isTerminal() && Deno.consoleSize().columns) || undefined;
    },
  };
}

function hangUp(): void {
  for (const handler of interrupted) handler(SIGNALS.SIGHUP);
}

function listen(
  handler: Handler,
  { hostname, port }: { hostname: string; port: number },
): Listening {
  const closing = new AbortController();
  try {
    const server = Deno.serve(
      { hostname, port, signal: closing.signal, onListen: () => {} },
      handler,
    );
    const { hostname: address, port: taken } = server.addr;
    return {
      url: `http://${address.includes(':') ? `[${address}]` : address}:${taken}`,
      // Its shutdown() would wait for who listens to events, which have no end.
      close() {
        closing.abort();
        return server.finished;
      },
    };
  } catch (cause) {
    if (cause instanceof Deno.errors.NotCapable)
      throw new MillraceError('EACCES', `cannot listen at ${hostname}:${port}: ${cause.message}`, {
        cause,
      });
    if (!(cause instanceof Deno.errors.AddrInUse))
      throw new MillraceError(
        'EIO',
        `cannot listen at ${hostname}:${port}: ${(cause as Error).message}`,
        { cause },
      );
    throw new MillraceError('EBUSY', `cannot listen at ${hostname}:${port}: another program does`, {
      cause,
    });
  }
}

Deno.exit(await runCommandLine(platform, Deno.args));
