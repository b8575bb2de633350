/**
 * A machine's state as it is kept beside its disk: how large its memory is, what its terminal
 * showed, and v86's own state.
 */
import { NotRestored } from '../page/problems.ts';

export interface Restored {
  /** Bytes. */
  memory: number;
  terminal: string;
  state: ArrayBuffer;
}

/** Bytes of the number in front, which tells how long the head is. */
const LENGTH_BYTES = 4;

export function packState({ state, ...rest }: Restored): Blob {
  const head = new TextEncoder().encode(JSON.stringify(rest));
  return new Blob([new Uint32Array([head.length]), head, state]);
}

/** @throws NotRestored for what is no such state. */
export async function unpackState(kept: Blob): Promise<Restored> {
  try {
    const [length] = new Uint32Array(await kept.slice(0, LENGTH_BYTES).arrayBuffer());
    const end = LENGTH_BYTES + length;
    const { memory, terminal } = JSON.parse(await kept.slice(LENGTH_BYTES, end).text()) as Restored;
    return { memory, terminal, state: await kept.slice(end).arrayBuffer() };
  } catch (error) {
    throw new NotRestored(`it is no state of a machine: ${String(error)}`);
  }
}
