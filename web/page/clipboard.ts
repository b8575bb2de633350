/** The clipboard, where the browser lets a page use it. */

/** False without a secure context, or where the user has forbidden it. */
export async function toClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** Undefined where the user has to paste by hand. */
export async function fromClipboard(): Promise<string | undefined> {
  try {
    return await navigator.clipboard.readText();
  } catch {
    return undefined;
  }
}
