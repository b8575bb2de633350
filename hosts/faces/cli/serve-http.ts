/**
 * What `millrace serve` does for HTTP: where it listens, and whom it answers. Without a token, only
 * this machine is listened to, and only requests that name it.
 */

import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { Listening } from '../http/handler.ts';
import { createHandler } from '../http/handler.ts';
import { hostAndPort } from './listen-address.ts';
import type { Platform } from './platform.ts';
import { LOOPBACK } from './platform.ts';

/** @throws MillraceError `EINVAL`; `EACCES` where others than this machine would reach it. */
export function privateAddress(
  listen: string,
  token: string | undefined,
): { hostname: string; port: number } {
  const address = hostAndPort(listen);
  if (address === undefined)
    throw new MillraceError(
      'EINVAL',
      `'${listen}' is not an address to listen at: PORT or ADDRESS:PORT`,
    );
  if (token === undefined && !LOOPBACK.test(address.hostname)) {
    throw new MillraceError(
      'EACCES',
      `cannot listen at ${address.hostname} without a token: others than this machine reach it (--token-file)`,
    );
  }
  return address;
}

export async function startHttp(
  platform: Platform,
  disks: Readonly<Record<string, Disk>>,
  address: { hostname: string; port: number },
  token: string | undefined,
  origins: string[] | undefined,
): Promise<Listening> {
  const handler = createHandler({
    disks,
    token,
    authorize: token === undefined ? namesThisMachine : undefined,
    origins,
    page: await inflated(await platform.servedPage?.()),
  });
  return platform.serve(handler, address);
}

async function inflated(gzip: Uint8Array<ArrayBuffer> | undefined): Promise<string | undefined> {
  if (gzip === undefined) return undefined;
  return new Response(
    new Blob([gzip]).stream().pipeThrough(new DecompressionStream('gzip')),
  ).text();
}

/**
 * A page on the web can make a name of its own lead to this machine: such a request still has that
 * name.
 */
function namesThisMachine(request: Request): boolean {
  return LOOPBACK.test(new URL(request.url).hostname);
}
