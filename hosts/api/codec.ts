/** What a runtime brings to inflate compressed clusters, and to compress them. */

/**
 * How an image compresses: `zlib` is a raw deflate stream (RFC 1951), `zstd` is zstd frames (RFC
 * 8878).
 */
export type Compression = 'zlib' | 'zstd';

/** What a cluster was compressed into; undefined where that is not smaller. */
export type Stream = Uint8Array | undefined;

export interface Codec {
  /**
   * Inflates the stream at the start of `from`, behind which there may be foreign bytes, into
   * exactly `into`. Both belong to the codec until it is done. Calls may be concurrent and end in
   * any order.
   * @throws MillraceError `ECORRUPT` when the stream is damaged, is cut off, or gives another
   *   number of bytes (`into` is then undefined); `EUNSUPPORTED` when the runtime cannot load a
   *   decoder.
   */
  inflate(method: Compression, from: Uint8Array, into: Uint8Array): void | Promise<void>;
  /**
   * Compresses all of `from`, which belongs to the codec until it is done, into one stream that
   * QEMU inflates too; undefined where that would not be smaller. Default: the runtime cannot.
   * @throws MillraceError `EUNSUPPORTED` when the runtime cannot load an encoder.
   */
  deflate?(method: Compression, from: Uint8Array): Stream | Promise<Stream>;
}
