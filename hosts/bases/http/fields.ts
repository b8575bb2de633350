/**
 * The header fields of a request: as much of `Headers` as is needed here. That class comes with all
 * that Node has for `fetch`, which takes a command 20 ms to load and is not used for bases.
 */

/** RFC 9110, sections 5.1 and 5.5. */
const NAME = /^[!#$%&'*+.^_`|~0-9a-z-]+$/;
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;

export class Fields implements Iterable<[name: string, value: string]> {
  readonly #values = new Map<string, string>();

  /** @throws TypeError for a name or value that HTTP does not allow. */
  constructor(given: Readonly<Record<string, string>> | Iterable<readonly [string, string]> = {}) {
    const pairs = Symbol.iterator in given ? given : Object.entries(given);
    for (const [name, value] of pairs as Iterable<readonly [string, string]>) {
      const other = this.get(name);
      this.set(name, other === null ? value : `${other}, ${value}`);
    }
  }

  get(name: string): string | null {
    return this.#values.get(name.toLowerCase()) ?? null;
  }

  has(name: string): boolean {
    return this.#values.has(name.toLowerCase());
  }

  set(name: string, value: string): void {
    const [key, text] = [name.toLowerCase(), String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, '')];
    if (!NAME.test(key) || !VALUE.test(text)) throw new TypeError('invalid header field');
    this.#values.set(key, text);
  }

  delete(name: string): void {
    this.#values.delete(name.toLowerCase());
  }

  [Symbol.iterator](): Iterator<[name: string, value: string]> {
    return this.#values[Symbol.iterator]();
  }
}
