/**
 * Frames of zstd put together by hand: where they end, and which of their claims are not believed.
 */
import { describe, expect, it } from 'vitest';
import { zstdFrame } from '../../hosts/disk/codecs/zstd.ts';

const MAGIC = [0x28, 0xb5, 0x2f, 0xfd];
const SINGLE_SEGMENT = 0x20;
const LIMIT = 65_536;
/** A last block of type raw with three bytes. */
const LAST_RAW = [0x19, 0, 0, 1, 2, 3];

function walk(...bytes: number[]): { length: number; contentSize?: number } {
  return zstdFrame(Uint8Array.from(bytes), LIMIT);
}

function refused(reason: string): unknown {
  return expect.objectContaining({
    code: 'ECORRUPT',
    message: `compressed data (zstd) does not inflate: ${reason}`,
  });
}

describe('a frame', () => {
  it('ends after its last block', () => {
    const behind = [9, 9, 9, 9];
    expect(walk(...MAGIC, SINGLE_SEGMENT, 3, ...LAST_RAW, ...behind)).toEqual({
      length: 12,
      contentSize: 3,
    });
    // A raw block of one byte, a repeated byte (whose size is that of what it gives), a compressed
    // block of two, and the last.
    const blocks = [0x08, 0, 0, 7, 0x82, 0x00, 0, 7, 0x14, 0, 0, 7, 7];
    expect(walk(...MAGIC, 0x00, 0x58, ...blocks, ...LAST_RAW, ...behind)).toEqual({
      length: 25,
      contentSize: undefined,
    });
  });

  it('ends after its checksum, if it has one', () => {
    expect(walk(...MAGIC, SINGLE_SEGMENT | 0x04, 3, ...LAST_RAW, 9, 9, 9, 9, 8)).toMatchObject({
      length: 16,
    });
    expect(() => walk(...MAGIC, SINGLE_SEGMENT | 0x04, 3, ...LAST_RAW, 9, 9, 9)).toThrow(
      refused('it is cut off'),
    );
  });

  it('tells its content size in one, two, four or eight bytes', () => {
    expect(walk(...MAGIC, SINGLE_SEGMENT, 200, ...LAST_RAW).contentSize).toBe(200);
    expect(walk(...MAGIC, SINGLE_SEGMENT | 0x40, 0, 1, ...LAST_RAW).contentSize).toBe(512);
    expect(walk(...MAGIC, SINGLE_SEGMENT | 0x80, 0, 0, 1, 0, ...LAST_RAW).contentSize).toBe(65_536);
    expect(
      walk(...MAGIC, SINGLE_SEGMENT | 0xc0, 7, 0, 0, 0, 0, 0, 0, 0, ...LAST_RAW).contentSize,
    ).toBe(7);
    expect(walk(...MAGIC, 0x40, 0x50, 0, 0, ...LAST_RAW)).toEqual({ length: 14, contentSize: 256 });
  });

  it('that claims more than is expected is refused before anything is decoded', () => {
    const claim = 'it claims 65537 bytes where 65536 are expected';
    expect(() => walk(...MAGIC, SINGLE_SEGMENT | 0x80, 1, 0, 1, 0, ...LAST_RAW)).toThrow(
      refused(claim),
    );
    const huge = [255, 255, 255, 255, 255, 255, 255, 255];
    expect(() => walk(...MAGIC, SINGLE_SEGMENT | 0xc0, ...huge, ...LAST_RAW)).toThrow(
      expect.objectContaining({ code: 'ECORRUPT' }),
    );
  });

  it('that needs a window above 8 MiB is refused', () => {
    expect(walk(...MAGIC, 0x00, 13 << 3, ...LAST_RAW).length).toBe(12);
    expect(() => walk(...MAGIC, 0x00, (13 << 3) | 1, ...LAST_RAW)).toThrow(
      refused('its window is above 8 MiB'),
    );
    expect(() => walk(...MAGIC, 0x00, 0xff, ...LAST_RAW)).toThrow(
      refused('its window is above 8 MiB'),
    );
  });

  it('that needs a dictionary, or has reserved bits, is refused', () => {
    expect(() => walk(...MAGIC, SINGLE_SEGMENT | 1, 5, 3, ...LAST_RAW)).toThrow(
      refused('it needs a dictionary'),
    );
    expect(() => walk(...MAGIC, SINGLE_SEGMENT | 3, 0, 0, 0, 5, 3, ...LAST_RAW)).toThrow(
      refused('it needs a dictionary'),
    );
    expect(walk(...MAGIC, SINGLE_SEGMENT | 2, 0, 0, 3, ...LAST_RAW).length).toBe(14);
    expect(() => walk(...MAGIC, SINGLE_SEGMENT | 0x08, 3, ...LAST_RAW)).toThrow(
      refused('a reserved bit is set'),
    );
    expect(() => walk(...MAGIC, SINGLE_SEGMENT, 3, 0x1f, 0, 0, 1, 2, 3)).toThrow(
      refused('a block has a reserved type'),
    );
  });

  it('that is none, or is cut off anywhere, is refused', () => {
    expect(() => walk(0x28, 0xb5, 0x2f, 0xfe, 0, 0, 0)).toThrow(
      refused('it does not begin with a frame'),
    );
    const frame = [...MAGIC, SINGLE_SEGMENT | 0x44, 0, 1, ...LAST_RAW, 9, 9, 9, 9];
    expect(walk(...frame).length).toBe(frame.length);
    for (let length = 0; length < frame.length; length++) {
      expect(() => walk(...frame.slice(0, length)), `${length} bytes`).toThrow(
        refused('it is cut off'),
      );
    }
  });
});
