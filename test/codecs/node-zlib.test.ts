/**
 * Inflating by one handle of node:zlib, which its documentation does not know: in use on Node, and
 * done without where it is not as expected. What it gives is compared in codecs.test.ts.
 */
import { constants, createInflateRaw, deflateRawSync, inflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import type { InflatingZlib, ZlibFunction } from '../../hosts/disk/codecs/node-zlib.ts';
import { inflateDecoder } from '../../hosts/disk/codecs/node-zlib.ts';
import { makeContent } from '../fixtures/content.ts';

const content = makeContent('text', 3, 64 * 1024);
const stream = deflateRawSync(content);
const cutOff = stream.subarray(0, -1);
const documented = inflateRawSync as ZlibFunction;

/** How often the documented call was used for a whole stream, one cut off and one too long. */
function callsOf(zlib: Partial<InflatingZlib>): number {
  let calls = 0;
  const decoder = inflateDecoder({
    createInflateRaw,
    constants,
    ...zlib,
    inflateRawSync(from, options) {
      calls++;
      return documented(from, options);
    },
  });
  const into = new Uint8Array(content.length);
  for (let i = 0; i < 2; i++) {
    expect(decoder(stream, into)).toBe(content.length);
    expect(Buffer.compare(into, content)).toBe(0);
    expect(() => decoder(cutOff, into)).toThrow('unexpected end of file');
    expect(decoder(stream, new Uint8Array(100))).toBe(101);
    expect(decoder(stream, new Uint8Array(content.length + 1))).toBe(content.length);
  }
  return calls;
}

/** A stream whose handle does something else. */
function changed(change: (handle: Record<string, unknown>, state: Uint32Array) => void) {
  return () => {
    const made = createInflateRaw() as unknown as {
      _handle: Record<string, (...args: unknown[]) => void>;
      _writeState: Uint32Array;
    };
    change(made._handle, made._writeState);
    return made;
  };
}

describe('inflating over node:zlib', () => {
  it('uses one handle again and again', () => {
    expect(callsOf({})).toBe(0);
  });

  it.each<[string, InflatingZlib['createInflateRaw']]>([
    ['has no handle', () => ({})],
    ['makes no stream', () => expect.fail('none')],
    ['writes nothing', changed((handle) => (handle.writeSync = () => {}))],
    ['does not begin anew', changed((handle) => (handle.reset = () => {}))],
    [
      'tells of no failure',
      changed((handle) =>
        Object.defineProperty(handle, 'onerror', { value() {}, writable: false }),
      ),
    ],
    [
      'counts otherwise',
      changed((handle, state) => {
        const writeSync = (handle.writeSync as (...args: unknown[]) => void).bind(handle);
        handle.writeSync = (...args: unknown[]) => {
          writeSync(...args);
          state[0] = 7;
        };
      }),
    ],
  ])('does without where the runtime %s', (_, create) => {
    expect(callsOf({ createInflateRaw: create })).toBe(8);
  });
});
