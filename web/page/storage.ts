/**
 * What a page remembers by itself: in this browser, or in this tab. A store that is full, or that
 * the browser forbids, costs what would be remembered, nothing else.
 */

type Store = 'localStorage' | 'sessionStorage';

export function remembered(key: string, store: Store = 'localStorage'): string | undefined {
  try {
    return globalThis[store].getItem(key) ?? undefined;
  } catch {
    return undefined;
  }
}

/** Undefined is forgotten. */
export function remember(
  key: string,
  value: string | undefined,
  store: Store = 'localStorage',
): void {
  try {
    if (value === undefined) globalThis[store].removeItem(key);
    else globalThis[store].setItem(key, value);
  } catch (error) {
    console.warn(`the page cannot remember this: ${key}: ${String(error)}`);
  }
}
