/** Bases by NBD under Node and Bun. What that takes is loaded with the first of them. */
import type { NbdBaseOptions, NbdSource } from '../bases/nbd/nbd.ts';

/**
 * Opens the export at an NBD URI: `nbd://HOST:PORT/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`, both
 * with TLS as `nbds…`, or where the runtime has WebSockets `ws://…#EXPORT`. Whom TLS trusts is said
 * by NODE_EXTRA_CA_CERTS, or by the folder of the URI's parameter `tls-certificates`.
 * @throws MillraceError as `openNbdWith` of ../bases/nbd/nbd.ts
 */
export async function openNbd(uri: string | URL, options?: NbdBaseOptions): Promise<NbdSource> {
  const [{ openNbdWith }, { connect }] = await Promise.all([
    import('../bases/nbd/nbd.ts'),
    import('./nbd-connect.ts'),
  ]);
  return openNbdWith(connect, uri, options);
}
