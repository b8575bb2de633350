/** From a place to a connection that has come to its export. */
import { Failure } from '../retry.ts';
import type { Traffic } from './connection.ts';
import { Connection } from './connection.ts';
import { hangUp } from './duplex.ts';
import { asFailure } from './failures.ts';
import { negotiate, otherProtocol } from './handshake.ts';
import type { NbdConnect, NbdPlace } from './uri.ts';

/** From the first packet to the export, TLS included. */
const HANDSHAKE_MS_MAX = 15_000;
const TOO_LATE = new Failure('ETIMEDOUT', `no answer within ${HANDSHAKE_MS_MAX / 1000} s`, {
  transient: true,
  lost: true,
});
/** An NBD server greets at once. After so long, whoever is there is asked whether it is one. */
const GREETING_MS = 1000;

/**
 * Connects and comes to the export.
 * @throws Failure
 */
export async function connectTo(
  place: NbdPlace,
  connect: NbdConnect,
  timeoutMs: number,
  traffic: Traffic,
  signal: AbortSignal,
): Promise<Connection> {
  const giveUp = new AbortController();
  const timer = setTimeout(() => giveUp.abort(TOO_LATE), HANDSHAKE_MS_MAX);
  const doubt = setTimeout(() => {
    void whatIsThere(place, connect, giveUp.signal).then((failure) => {
      if (failure !== undefined) giveUp.abort(failure);
    });
  }, GREETING_MS);
  const forward = (): void => giveUp.abort(signal.reason);
  signal.addEventListener('abort', forward);
  try {
    signal.throwIfAborted();
    const connection = await connect(place, giveUp.signal);
    const told = await negotiate(
      connection,
      place,
      (reader, writer) => {
        giveUp.signal.addEventListener('abort', () => hangUp(reader, writer));
      },
      () => clearTimeout(doubt),
    );
    return new Connection(told, timeoutMs, traffic);
  } catch (error) {
    const failure = giveUp.signal.aborted ? giveUp.signal.reason : error;
    giveUp.abort(failure);
    throw signal.aborted ? signal.reason : asFailure(failure);
  } finally {
    clearTimeout(timer);
    clearTimeout(doubt);
    signal.removeEventListener('abort', forward);
  }
}

/**
 * Why nobody greets, by a connection of its own: what is sent there would put an NBD server that is
 * only slow out of step. Undefined where it may be one.
 */
async function whatIsThere(
  place: NbdPlace,
  connect: NbdConnect,
  signal: AbortSignal,
): Promise<Failure | undefined> {
  // A WebSocket has been agreed on already.
  if (place.transport.kind === 'websocket') return undefined;
  const asked = new AbortController();
  const stop = (): void => asked.abort(signal.reason);
  signal.addEventListener('abort', stop);
  try {
    const found = await otherProtocol(() => connect(place, asked.signal));
    if (found === undefined) return undefined;
    const help = found === 'HTTP' ? ': is it an http: URL?' : '';
    return new Failure('EIO', `what answers there is no NBD server, it speaks ${found}${help}`);
  } catch {
    return undefined;
  } finally {
    signal.removeEventListener('abort', stop);
    stop();
  }
}
