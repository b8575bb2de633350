/** What the first read asks of a server, what a stream takes of memory, and the engine's size. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { startNginx } from '../support/nginx.ts';
import { createImage } from '../support/qemu.ts';
import { binariesCompressed, localRaw } from './data.ts';
import { peakMemory, firstRead as readFirst } from './ours.ts';
import type { BenchRow } from './table.ts';

const TIB = 1024 ** 4;

/** The first read of a disk of 1 TiB over HTTP, in requests and bytes. */
export async function firstRead(): Promise<BenchRow[]> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  await createImage(join(dir, 'large.qcow2'), { size: TIB, with: { preallocation: 'off' } });
  const nginx = await startNginx({ root: dir });
  try {
    const read = await readFirst(`${nginx.url}/large.qcow2`);
    return [
      {
        case: 'first read of a 1 TiB qcow2 by HTTP',
        value: read.requests,
        unit: 'requests',
        goalMax: 4,
      },
      { case: '', value: read.bytes / 1024, unit: 'KiB', goalMax: 512 },
    ];
  } finally {
    await nginx.stop();
    await rm(dir, { recursive: true });
  }
}

/** Memory of the command line while it streams, and the size of the engine. */
export async function sizes(): Promise<BenchRow[]> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  try {
    const large = join(dir, 'large.qcow2');
    await createImage(large, { size: 16 * TIB });
    const wasm = gzipSync(
      await readFile(fileURLToPath(new URL('../../dist/engine.wasm', import.meta.url))),
      { level: 9 },
    );
    return [
      {
        case: 'peak memory of millrace stream: raw, 2 GiB',
        value: await peakMemory(await localRaw()),
        unit: 'MiB',
        goalMax: 160,
      },
      {
        case: '  zstd qcow2, 512 MiB',
        value: await peakMemory(await binariesCompressed('zstd')),
        unit: 'MiB',
        goalMax: 160,
      },
      { case: '  sparse qcow2, 16 TiB', value: await peakMemory(large), unit: 'MiB', goalMax: 160 },
      { case: 'engine.wasm, gzipped', value: wasm.length / 1024, unit: 'KiB', goalMax: 48 },
    ];
  } finally {
    await rm(dir, { recursive: true });
  }
}
