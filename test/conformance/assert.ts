/**
 * Assertions of the conformance suite, for every runtime: each throws an Error that says what was
 * expected and what came.
 */

/** Both are the same value, compared as JSON where they are objects. */
export function equal(actual: unknown, expected: unknown, what: string): void {
  const [got, wanted] = [textOf(actual), textOf(expected)];
  if (got !== wanted) throw new Error(`${what}: expected ${wanted}, got ${got}`);
}

export function ok(value: unknown, what: string): asserts value {
  if (!value) throw new Error(`${what}: it is not so`);
}

/** Byte for byte the same; a difference is told by its first offset. */
export function sameBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  equal(actual.length, expected.length, `${what}: length`);
  for (let at = 0; at < actual.length; at++) {
    if (actual[at] !== expected[at])
      throw new Error(`${what}: byte ${at} is ${actual[at]}, expected ${expected[at]}`);
  }
}

/**
 * What an error tells: `code` of a MillraceError, by its name, since it may have come from another
 * thread.
 */
export interface Told {
  code: string;
  message: string;
}

/** It rejects with a MillraceError of this code, whose message matches. */
export async function rejects(
  promise: Promise<unknown>,
  code: string,
  message: RegExp = /./,
): Promise<Told> {
  const error = await promise.then(
    () => undefined,
    (error: Error & Told) => error,
  );
  if (error === undefined) throw new Error(`expected ${code}, and it resolved`);
  if (error.name !== 'MillraceError')
    throw new Error(`expected ${code}, got another error: ${error.stack ?? String(error)}`, {
      cause: error,
    });
  equal(error.code, code, `code of "${error.message}"`);
  if (!message.test(error.message))
    throw new Error(`expected a message like ${message}, got "${error.message}"`);
  return error;
}

function textOf(value: unknown): string {
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : String(value);
}
