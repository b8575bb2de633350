/**
 * NBD for Deno: listens at sockets, and serves disks to who connects.
 *
 * ```ts
 * import { listenNbd, NbdServer } from 'millrace/nbd';
 * const server = new NbdServer({ vda: disk });
 * const listening = await listenNbd(server, { path: '/run/vm.sock' });
 * // … then
 * await listening.close();
 * await server.close();   // what was written is safe; the disk is still open
 * ```
 *
 * It needs `--allow-net` for the address; for a Unix socket, which is its user's alone, that is
 * `--allow-net=unix:PATH`, with `--allow-read`, `--allow-write` and `--allow-sys=umask`.
 */

export * from '../faces/nbd/index.ts';
export type { NbdAddress, NbdListening, NbdTls } from '../faces/nbd/listen.ts';
export { listenNbd } from '../faces/nbd/listen.ts';
