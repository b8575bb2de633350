/**
 * What a page remembers in this browser by itself. A store that is full, or that the browser
 * forbids, costs what would be remembered, nothing else.
 */

export function remembered(key: string): string | undefined {
  try {
    return localStorage.getItem(key) ?? undefined;
  } catch {
    return undefined;
  }
}

/** Undefined is forgotten. */
export function remember(key: string, value: string | undefined): void {
  try {
    if (value === undefined) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch (error) {
    console.warn(`the page cannot remember this: ${key}: ${String(error)}`);
  }
}
