/**
 * Writing clusters compressed: each is compressed by itself, in the codec's threads where it has
 * some, and those that get smaller go to the overlay as streams, many in one request.
 */
import { KIND_PACK, PACK_LENGTH_BYTES } from '../../engine/protocol.ts';
import type { Codec, Compression, Stream } from '../api/codec.ts';
import { MillraceError } from '../api/errors.ts';
import type { Engine } from './driver/engine.ts';
import { isZero } from './zeros.ts';

/** Where clusters go, and how. */
export interface PackTarget {
  engine: Engine;
  method: Compression;
  clusterSize: number;
  /** Zeros are compressed as anything else. */
  full: boolean;
  /** Of clusters that do not get smaller. */
  write(offset: number, data: Uint8Array): Promise<void>;
  writeZeroes(offset: number, length: number): Promise<void>;
}

/** What becomes of a cluster. */
type Kind = 'packed' | 'zero' | 'plain';

/**
 * Writes `data` at `offset`, where a cluster begins; the last one may be cut by the end of the
 * disk. It is at most what the engine takes in one request.
 */
export async function pack(target: PackTarget, offset: number, data: Uint8Array): Promise<void> {
  const { engine, clusterSize, full } = target;
  const deflate = deflateOf(target);
  const pending: (Stream | Promise<Stream>)[] = [];
  const isEmpty: boolean[] = [];
  for (let at = 0; at < data.length; at += clusterSize) {
    const cluster = data.subarray(at, at + clusterSize);
    isEmpty.push(!full && isZero(cluster));
    pending.push(isEmpty[isEmpty.length - 1] ? undefined : deflate(whole(cluster, clusterSize)));
  }
  const streams = await Promise.all(pending);
  const kinds = streams.map((stream, i): Kind => {
    if (isEmpty[i]) return 'zero';
    return stream === undefined ? 'plain' : 'packed';
  });
  const work: Promise<unknown>[] = [];
  if (kinds.includes('packed')) {
    const packed = inOne(streams);
    work.push(engine.request(KIND_PACK, offset, data.length, packed.length, { data: packed }));
  }
  for (const { kind, from, to } of alike(kinds)) {
    const start = from * clusterSize;
    const end = Math.min(to * clusterSize, data.length);
    if (kind === 'zero') work.push(target.writeZeroes(offset + start, end - start));
    if (kind === 'plain') work.push(target.write(offset + start, data.subarray(start, end)));
  }
  await Promise.all(work);
}

function deflateOf({
  engine,
  method,
}: PackTarget): (cluster: Uint8Array) => ReturnType<NonNullable<Codec['deflate']>> {
  const { codec } = engine;
  if (codec.deflate === undefined)
    throw new MillraceError('EUNSUPPORTED', 'this runtime cannot compress clusters');
  return (cluster) => codec.deflate!(method, cluster);
}

/** The last cluster is compressed with zeros behind the end of the disk. */
function whole(cluster: Uint8Array, bytes: number): Uint8Array {
  if (cluster.length === bytes) return cluster;
  const padded = new Uint8Array(bytes);
  padded.set(cluster);
  return padded;
}

/** The length of each stream, 0 for none, and then the streams, as the engine takes them. */
function inOne(streams: readonly Stream[]): Uint8Array {
  const lengths = streams.map((stream) => stream?.length ?? 0);
  const bytes = lengths.reduce((sum, length) => sum + length, streams.length * PACK_LENGTH_BYTES);
  const packed = new Uint8Array(bytes);
  const view = new DataView(packed.buffer);
  let at = streams.length * PACK_LENGTH_BYTES;
  lengths.forEach((length, i) => {
    view.setUint32(i * PACK_LENGTH_BYTES, length, true);
    if (streams[i]) packed.set(streams[i], at);
    at += length;
  });
  return packed;
}

/** Runs of clusters with which the same is done. */
function* alike(kinds: readonly Kind[]): Generator<{ kind: Kind; from: number; to: number }> {
  for (let from = 0, to = 0; from < kinds.length; from = to) {
    while (to < kinds.length && kinds[to] === kinds[from]) to++;
    yield { kind: kinds[from], from, to };
  }
}
