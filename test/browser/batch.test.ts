/**
 * Gathered writes: fewer calls, the same bytes, and never a write of later before one of earlier
 * across a flush.
 */
import * as fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { SyncFile } from '../../hosts/browser/batch.ts';
import { BatchedFile } from '../../hosts/browser/batch.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

/** A file in memory that counts its calls and has only so much room. */
class CountingFile implements SyncFile {
  readonly name = 'counted';
  bytes: Uint8Array = new Uint8Array(0);
  writes = 0;
  flushes = 0;
  room = Infinity;
  /** The content at the last flush. */
  flushed: Uint8Array = new Uint8Array(0);
  closed = false;

  get size(): number {
    return this.bytes.length;
  }

  read(offset: number, into: Uint8Array): void {
    if (offset + into.length > this.size)
      throw new Error(`a read past the end: ${offset} + ${into.length}`);
    into.set(this.bytes.subarray(offset, offset + into.length));
  }

  write(offset: number, from: Uint8Array): void {
    this.writes++;
    if (offset + from.length > this.size) this.truncate(offset + from.length);
    this.bytes.set(from, offset);
  }

  flush(): void {
    this.flushes++;
    this.flushed = this.bytes.slice();
  }

  truncate(size: number): void {
    if (size > this.room) throw new MillraceError('ENOSPC', 'no room');
    const bytes = new Uint8Array(size);
    bytes.set(this.bytes.subarray(0, size));
    this.bytes = bytes;
  }

  close(): void {
    this.closed = true;
  }
}

function batched(): { file: CountingFile; batch: BatchedFile } {
  const file = new CountingFile();
  return { file, batch: new BatchedFile(file, async (error) => error as Error) };
}

function read(batch: BatchedFile, offset: number, length: number): Uint8Array {
  const into = new Uint8Array(length);
  batch.read(offset, into);
  return into;
}

describe('gathered writes', () => {
  it('of neighbours reach the file as one, when it is flushed', () => {
    const { file, batch } = batched();
    batch.write(0, new Uint8Array(MIB));
    file.writes = 0;
    for (let at = 0; at < 256 * KIB; at += 4 * KIB)
      batch.write(at, new Uint8Array(4 * KIB).fill(at / 4096 + 1));
    expect(file.writes).toBe(0);
    expect(read(batch, 8 * KIB, 1)[0]).toBe(3);
    batch.flush();
    expect(file.writes).toBe(1);
    expect(file.flushes).toBe(1);
    expect(file.flushed[8 * KIB]).toBe(3);
  });

  it('all over the file stay within their bound', () => {
    const { file, batch } = batched();
    batch.write(0, new Uint8Array(64 * MIB));
    file.writes = 0;
    for (let i = 0; i < 4096; i++)
      batch.write(((i * 7919) % 4096) * 16 * KIB, new Uint8Array(16).fill(i));
    expect(file.writes).toBeGreaterThan(0);
    expect(file.writes).toBeLessThanOrEqual(4096);
  });

  it('stay within their bound while they cannot be written back, and lose nothing', async () => {
    const { file, batch } = batched();
    const refusing = vi.spyOn(file, 'write').mockImplementation(() => {
      throw new MillraceError('EIO', 'the device fails');
    });
    batch.truncate(64 * MIB);
    let taken = 0;
    for (let i = 0; i < 2048; i++)
      await Promise.resolve(batch.write(i * 16 * KIB, new Uint8Array(16).fill(1))).then(
        () => taken++,
        () => {},
      );
    expect(taken).toBeLessThanOrEqual(512);
    refusing.mockRestore();
    batch.flush();
    for (let i = 0; i < 2048; i++) expect(file.flushed[i * 16 * KIB]).toBe(i < taken ? 1 : 0);
  });

  it('are refused at once when there is no room for them, and those accepted before never fail', async () => {
    const { file, batch } = batched();
    file.room = 2 * MIB;
    for (let at = 0; at + 4 * KIB <= 2 * MIB; at += 4 * KIB)
      batch.write(at, new Uint8Array(4 * KIB).fill(1));
    await expect(batch.write(2 * MIB, new Uint8Array(1))).rejects.toMatchObject({ code: 'ENOSPC' });
    file.room = 0;
    batch.flush();
    expect(file.flushed.every((byte) => byte === 1)).toBe(true);
    expect(batch.size).toBe(2 * MIB);
  });

  it('leave a file of the right length when it is closed', () => {
    const { file, batch } = batched();
    batch.write(100, new Uint8Array([1, 2, 3]));
    expect(batch.size).toBe(103);
    batch.close();
    expect([file.size, file.closed]).toEqual([103, true]);
    expect([...file.bytes.subarray(99)]).toEqual([0, 1, 2, 3]);
  });

  it('wait while the file is held unchanged, and go on in order', async () => {
    const { file, batch } = batched();
    batch.write(0, new Uint8Array([1]));
    let done = (): void => {};
    const held = batch.unchanged(async (inner) => {
      await new Promise<void>((resolve) => (done = resolve));
      return inner.size > 0 && file.bytes[0];
    });
    const first = batch.write(0, new Uint8Array([2]));
    const second = batch.write(0, new Uint8Array([3]));
    const flush = batch.flush();
    await Promise.resolve();
    expect([file.bytes[0], file.flushes]).toEqual([1, 0]);
    done();
    expect(await held).toBe(1);
    await Promise.all([first, second, flush]);
    expect([file.flushed[0], file.flushes]).toEqual([3, 1]);
  });

  it('make no difference to what is read and what a flush brings to the file', () => {
    const offset = fc.integer({ min: 0, max: 400 * KIB });
    const step = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({
          kind: fc.constant('write' as const),
          offset,
          length: fc.oneof(fc.integer({ min: 0, max: 5000 }), fc.integer({ min: 0, max: 150_000 })),
        }),
      },
      {
        weight: 2,
        arbitrary: fc.record({
          kind: fc.constant('read' as const),
          offset,
          length: fc.integer({ min: 0, max: 100_000 }),
        }),
      },
      {
        weight: 1,
        arbitrary: fc.record({
          kind: fc.constant('flush' as const),
          offset,
          length: fc.constant(0),
        }),
      },
      {
        weight: 1,
        arbitrary: fc.record({
          kind: fc.constant('truncate' as const),
          offset,
          length: fc.constant(0),
        }),
      },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const { file, batch } = batched();
        const model = new CountingFile();
        steps.forEach(({ kind, offset, length }, i) => {
          if (kind === 'write' && length > 0) {
            const bytes = Uint8Array.from({ length }, (_, at) => at * 31 + i + 1);
            batch.write(offset, bytes);
            model.write(offset, bytes);
          } else if (kind === 'read') {
            const end = Math.min(model.size, offset + length);
            if (
              offset < end &&
              Buffer.compare(
                read(batch, offset, end - offset),
                model.bytes.subarray(offset, end),
              ) !== 0
            )
              throw new Error(`read ${offset}`);
          } else if (kind === 'flush') {
            batch.flush();
            if (Buffer.compare(file.flushed.subarray(0, batch.size), model.bytes) !== 0)
              throw new Error('flush');
          } else if (kind === 'truncate') {
            batch.truncate(offset);
            model.truncate(offset);
          }
          if (batch.size !== model.size) throw new Error(`size ${batch.size}, not ${model.size}`);
        });
        batch.close();
        if (Buffer.compare(file.bytes, model.bytes) !== 0) throw new Error('closed');
      }),
      { numRuns: 200, seed: 7 },
    );
  });
});
