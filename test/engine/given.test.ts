import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { createDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';

const MIB = 1 << 20;
const PIECE = 512 * 1024;
const PIECES = 64;

it('keeps what a read gave until the host has copied it, though other reads wait for that memory', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-given-'));
  try {
    const content = makeContent('random', 1, PIECE);
    const base = join(dir, 'base.raw');
    const file = await open(base, 'w');
    await file.truncate(PIECES * PIECE);
    for (let piece = 0; piece < PIECES; piece += 2)
      await file.write(content, 0, PIECE, piece * PIECE);
    await file.close();
    const disk = await createDisk({ overlay: join(dir, 'overlay.qcow2'), base, memory: 16 * MIB });
    await disk.stream();
    // Every other piece is zeros, which the engine fills in itself in the step in which it has got
    // the memory.
    const read = await Promise.all(
      Array.from({ length: PIECES }, (_, piece) => disk.read(piece * PIECE, PIECE)),
    );
    const wrong = read.flatMap((bytes, piece) =>
      Buffer.compare(bytes, piece % 2 ? new Uint8Array(PIECE) : content) ? [piece] : [],
    );
    expect(wrong).toEqual([]);
    await disk.close();
  } finally {
    await rm(dir, { recursive: true });
  }
});
