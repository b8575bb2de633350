/**
 * Which overlays are open for writing in this instance of a worker: the platform runs one instance
 * of a Durable Object at a time.
 */
import { MillraceError } from '../api/errors.ts';

const writers = new WeakMap<object, Set<string>>();

/**
 * Notes a writer of an overlay in a storage or bucket; gives what takes the note back.
 * @throws MillraceError `EBUSY` when there is one.
 */
export function enterWriter(place: object, name: string): () => void {
  const names = writers.get(place) ?? new Set();
  writers.set(place, names);
  if (names.has(name))
    throw new MillraceError('EBUSY', `'${name}' is open for writing in this object already`);
  names.add(name);
  let entered = true;
  return () => {
    if (entered) names.delete(name);
    entered = false;
  };
}
