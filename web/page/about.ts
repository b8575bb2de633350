/** The foot of a page: which version this is, and where to read on. */
import { make, part } from './dom.ts';

const REPOSITORY: string = __REPOSITORY__;

/** `help` is the address of the documentation that comes with the page, if any does. */
export function showAbout(help?: string): void {
  const links: [string, string][] = [];
  if (help !== undefined) links.push(['Documentation', help]);
  else if (REPOSITORY !== '') links.push(['Documentation', `${REPOSITORY}#readme`]);
  if (REPOSITORY !== '') links.push(['Source', REPOSITORY]);
  part('about').replaceChildren(
    make('span', {}, `Millrace ${__VERSION__}`),
    ...links.map(([text, href]) => make('a', { href }, text)),
  );
}
