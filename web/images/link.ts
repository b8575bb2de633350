/** Links to this page that boot an image, to be given to others. */
import { toClipboard } from '../page/clipboard.ts';
import { announce, ask } from '../page/dom.ts';

export function linkTo(image: string): string {
  return `${location.href.split('#')[0]}#image=${encodeURIComponent(image)}`;
}

/** Shows a link, and puts it where it can be pasted from if the browser allows that. */
export async function showLink(link: string): Promise<void> {
  if (await toClipboard(link)) announce('The link is in the clipboard.');
  await ask({
    title: 'A link that boots this image',
    text: 'Whoever opens it gets a disk of their own from the same image. What this machine has written is not in it.',
    yes: 'Done',
    label: 'Link',
    name: link,
  });
}
