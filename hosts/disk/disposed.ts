/** What is closed at the end of an `await using`. */

/** Engines that do not have the symbol yet are given this one by compilers. */
const ASYNC_DISPOSE: symbol = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose');

/** Has what a class makes be closed when it is disposed of. */
export function closeWhenDisposed(of: { prototype: { close(): Promise<void> } }): void {
  Object.defineProperty(of.prototype, ASYNC_DISPOSE, {
    value(this: { close(): Promise<void> }): Promise<void> {
      return this.close();
    },
  });
}
