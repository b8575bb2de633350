/**
 * NBD for Node and Bun: listens at sockets, and serves disks to who connects.
 *
 * ```ts
 * import { listenNbd, NbdServer } from 'millrace/nbd';
 * const server = new NbdServer({ vda: disk });
 * const listening = await listenNbd(server, { path: '/run/vm.sock' });
 * // … then
 * await listening.close();
 * await server.close();   // what was written is safe; the disk is still open
 * ```
 */

export * from '../faces/nbd/index.ts';
export type { NbdAddress, NbdListening, NbdTls } from '../faces/nbd/listen.ts';
export { activatedSocket, listenNbd } from '../faces/nbd/listen.ts';
