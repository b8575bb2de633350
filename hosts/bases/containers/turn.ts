/** Long work gives others in its thread a turn now and then. */

/** Resolves when timers and events that wait have had their turn. */
export function nextTurn(): Promise<void> {
  const { setImmediate } = globalThis as { setImmediate?: (run: () => void) => void };
  return new Promise((resolve) => {
    if (setImmediate === undefined) setTimeout(resolve);
    else setImmediate(resolve);
  });
}

/** Copies of the pieces, with a turn for others after each so many bytes. */
export async function* copiesInTurns(
  pieces: Iterable<Uint8Array>,
  bytesATurn: number,
): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for (const piece of pieces) {
    yield piece.slice();
    bytes += piece.length;
    if (bytes < bytesATurn) continue;
    bytes = 0;
    await nextTurn();
  }
}
