/** Finding zeros in data that is going to be copied or told of. */

/** A part of some bytes, from `start` to `end`, that is zero or not. */
export interface Run {
  start: number;
  end: number;
  zero: boolean;
}

/**
 * The bytes as runs of zero and other blocks, each run as long as can be. `blockBytes` is a
 * multiple of 4, and so is where they lie.
 */
export function* runsOf(bytes: Uint8Array, blockBytes: number): Generator<Run> {
  let run: Run | undefined;
  for (let start = 0; start < bytes.length; start += blockBytes) {
    const end = Math.min(start + blockBytes, bytes.length);
    const zero = isZero(bytes.subarray(start, end));
    if (run?.zero === zero) {
      run.end = end;
    } else {
      if (run) yield run;
      run = { start, end, zero };
    }
  }
  if (run) yield run;
}

/** Whether all bytes are zero, which lie at a multiple of 4. */
export function isZero(bytes: Uint8Array): boolean {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
  for (let at = 0; at < words.length; at++) if (words[at]) return false;
  for (let at = words.length * 4; at < bytes.length; at++) if (bytes[at]) return false;
  return true;
}
