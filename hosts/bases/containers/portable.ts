/** Decompressors that run everywhere but where WebAssembly cannot be compiled at run time. */
import { compileZstd } from '../../decoders/zstd.ts';
import { bunzip2 } from './bzip2.ts';
import type { Decompressors } from './decompress.ts';
import { portableGzip } from './gzip.ts';
import { zstdDecompressor } from './portable-zstd.ts';
import { loadXz, xzDecompressor } from './xz-decoder.ts';

export const portableDecompressors: Decompressors = {
  gzip: portableGzip,
  gzipMember: portableGzip,
  zstd: async () => zstdDecompressor(await compileZstd()),
  xz: async () => xzDecompressor(await loadXz()),
  bzip2: async () => bunzip2,
};
