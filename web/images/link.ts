/** Links to this page that boot an image, to be given to others. */
import { announce, ask } from '../page/dom.ts';

export function linkTo(image: string): string {
  return `${location.href.split('#')[0]}#image=${encodeURIComponent(image)}`;
}

/** Puts a link where it can be pasted from, or shows it where the browser does not allow that. */
export async function showLink(link: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(link);
    announce('The link is in the clipboard.');
  } catch {
    // Asked without a user's permission, or outside a secure context.
  }
  await ask({
    title: 'A link that boots this image',
    text: 'Whoever opens it gets a disk of their own from the same image. What this machine has written is not in it.',
    yes: 'Done',
    label: 'Link',
    name: link,
  });
}
