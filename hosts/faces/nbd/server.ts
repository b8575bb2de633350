/**
 * The NBD server: serves disks over any pair of byte streams. Sockets, TLS and WebSockets are
 * brought by the runtimes' bindings; it knows none of them.
 */
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { OptionNames } from '../../api/options.ts';
import { mustKnowOptions } from '../../api/options.ts';
import type { NbdConnection } from '../../bases/nbd/duplex.ts';
import { STRING_BYTES_MAX } from '../../bases/nbd/protocol.ts';
import { Export } from './export.ts';
import { Handshake } from './handshake.ts';
import {
  CLOSE_GRACE_MS,
  CLOSE_MS_MAX,
  CONNECTIONS_MAX,
  HANDSHAKE_MS_MAX,
  IO_TIMEOUT_MS_DEFAULT,
} from './limits.ts';
import { Stop } from './stop.ts';
import { Transmission } from './transmission.ts';

export type { NbdConnection } from '../../bases/nbd/duplex.ts';

/** How disks are served. */
export interface NbdOptions {
  /** Refuse what would change a disk. Default false; a disk that was opened read-only needs it. */
  readOnly?: boolean;
  /**
   * Milliseconds that a request waits for a base that fails in ways that may pass, or does not
   * answer, before the client is told of an error; default 60000. Clients have time limits of their
   * own, from 90 seconds on.
   */
  ioTimeout?: number;
  /**
   * Nothing is told or done before a client has asked for TLS; connections then bring `startTls`.
   */
  tlsRequired?: boolean;
  /** Time a client has to choose an export, in milliseconds; default 60000. */
  handshakeTimeout?: number;
}

const NBD_OPTIONS: OptionNames<NbdOptions> = {
  readOnly: true,
  ioTimeout: true,
  tlsRequired: true,
  handshakeTimeout: true,
};

/** The longest time-out that timers take. */
const MS_MAX = 2 ** 31 - 1;

/**
 * Serves disks by name to all clients that connect, until it is closed. The disks stay open, and
 * the caller's.
 */
export class NbdServer {
  readonly #exports: ReadonlyMap<string, Export>;
  readonly #tlsRequired: boolean;
  readonly #handshakeMs: number;
  readonly #live = new Set<Promise<void>>();
  readonly #stop = new Stop();
  readonly #transmissions = new Set<Transmission>();
  readonly #handshakes = new Set<Handshake>();
  #hadClients = false;
  #onLastGone: (() => void)[] = [];
  #isClosing = false;
  #closing: Promise<void> | undefined;

  /**
   * Serves disks by their names. @throws MillraceError `EINVAL` for an option that does not exist,
   * and a name or time that cannot be.
   */
  constructor(disks: Readonly<Record<string, Disk>>, options: NbdOptions = {}) {
    mustKnowOptions('NbdServer', options, NBD_OPTIONS);
    const { readOnly = false, ioTimeout = IO_TIMEOUT_MS_DEFAULT } = options;
    const timeoutMs = checkedTime('ioTimeout', ioTimeout);
    this.#tlsRequired = options.tlsRequired ?? false;
    this.#handshakeMs = checkedTime(
      'handshakeTimeout',
      options.handshakeTimeout ?? HANDSHAKE_MS_MAX,
    );
    this.#exports = new Map(
      Object.entries(disks).map(([name, disk]) => [
        checkedName(name),
        new Export(name, disk, { readOnly, timeoutMs }),
      ]),
    );
  }

  /** Clients that are connected. */
  get connections(): number {
    return this.#live.size;
  }

  /**
   * Resolves when the last client has gone; at once where there was one, and none is left. (With a
   * socket of systemd, the first may be there before anybody asks.)
   */
  lastGone(): Promise<void> {
    if (this.#hadClients && this.#live.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#onLastGone.push(resolve));
  }

  /**
   * Serves one client; resolves when its connection has ended, however it did. It never rejects.
   */
  serve(connection: NbdConnection): Promise<void> {
    const serving = this.#serve(connection);
    this.#live.add(serving);
    this.#hadClients = true;
    void serving.finally(() => {
      this.#live.delete(serving);
      if (this.#live.size === 0) for (const tell of this.#onLastGone.splice(0)) tell();
    });
    return serving;
  }

  /**
   * Lets no client in any more, lets requests under way end (those that still wait for a base then
   * end with NBD_ESHUTDOWN), brings what was written to the storage, and closes the connections.
   * @throws MillraceError when a disk could not be flushed.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#isClosing = true;
    const transmissions = [...this.#transmissions];
    const answered = Promise.all(transmissions.map((each) => each.finish()));
    await within(CLOSE_GRACE_MS, answered);
    this.#stop.give();
    await within(CLOSE_MS_MAX, answered);
    for (const handshake of this.#handshakes) handshake.reader.cancel('the server is closing');
    const flushed = await Promise.allSettled(
      [...this.#exports.values()].map(({ readOnly, disk }) =>
        readOnly ? undefined : disk.flush(),
      ),
    );
    for (const transmission of transmissions) transmission.end();
    await within(CLOSE_MS_MAX, Promise.all(this.#live));
    for (const result of flushed) if (result.status === 'rejected') throw result.reason;
  }

  async #serve(connection: NbdConnection): Promise<void> {
    if (this.#isClosing || this.#live.size >= CONNECTIONS_MAX) {
      await Promise.allSettled([connection.readable.cancel(), connection.writable.abort()]);
      return;
    }
    const handshake = new Handshake(connection, {
      exports: this.#exports,
      tlsRequired: this.#tlsRequired,
      isClosing: () => this.#isClosing,
    });
    try {
      await this.#talk(handshake);
      await within(CLOSE_MS_MAX, handshake.writer.close());
    } catch (error) {
      // The client has gone, or was out of step: there is nobody left to tell.
      handshake.writer.abort(error);
    } finally {
      handshake.reader.cancel('the connection has ended');
    }
  }

  async #talk(handshake: Handshake): Promise<void> {
    this.#handshakes.add(handshake);
    const late = timer(this.#handshakeMs);
    void late.passed.then(() => {
      handshake.reader.cancel('the handshake took too long');
      handshake.writer.abort('the handshake took too long');
    });
    const agreement = await handshake.run().finally(() => {
      late.clear();
      this.#handshakes.delete(handshake);
    });
    if (agreement === undefined) return handshake.writer.drained();
    const { reader, writer } = handshake;
    const transmission = new Transmission(reader, writer, agreement, {
      stop: this.#stop,
      isClosing: this.#isClosing,
    });
    this.#transmissions.add(transmission);
    try {
      await transmission.run();
    } finally {
      this.#transmissions.delete(transmission);
    }
  }
}

/**
 * Serves disks to one client, whose connection is any pair of byte streams; resolves when the
 * connection has ended. For more than one client, make one NbdServer: writes that one of them did
 * not wait for then stay in order with the others'.
 */
export function serveNbd(
  disks: Readonly<Record<string, Disk>>,
  connection: NbdConnection,
  options: NbdOptions = {},
): Promise<void> {
  return new NbdServer(disks, options).serve(connection);
}

function checkedName(name: string): string {
  if (new TextEncoder().encode(name).length > STRING_BYTES_MAX || name.includes('\0'))
    throw new MillraceError(
      'EINVAL',
      `invalid export name: must be at most ${STRING_BYTES_MAX} bytes, without NUL`,
    );
  return name;
}

function checkedTime(name: string, ms: number): number {
  if (!Number.isFinite(ms) || ms < 0 || ms > MS_MAX)
    throw new MillraceError('EINVAL', `invalid ${name} ${ms}: must be 0 to ${MS_MAX} milliseconds`);
  return ms;
}

/** Waits for something, but not longer than that. */
async function within(ms: number, done: Promise<unknown>): Promise<void> {
  const late = timer(ms);
  await Promise.race([done, late.passed]);
  late.clear();
}

function timer(ms: number): { passed: Promise<void>; clear: () => void } {
  let clear = (): void => {};
  const passed = new Promise<void>((resolve) => {
    const id = setTimeout(resolve, ms);
    clear = () => clearTimeout(id);
  });
  return { passed, clear };
}
