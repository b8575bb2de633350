/**
 * What a page tells its user at its top: what happened, what to do about it, and the exact words.
 */
import { make, part } from './dom.ts';

/** An error as a person can act on it. */
export interface Explanation {
  title: string;
  advice: string;
}

/** What the page can offer to do. */
export interface Remedy {
  label: string;
  act(): void;
}

/** Shows a problem, until `hideNotice`; `detail` has the exact words of the error below. */
export function showNotice(
  { title, advice }: Explanation,
  detail: string,
  remedies: readonly Remedy[],
): void {
  const buttons = [...remedies, { label: 'Dismiss', act: () => {} }].map(({ label, act }) =>
    make(
      'button',
      {
        type: 'button',
        onclick: () => {
          hideNotice();
          act();
        },
      },
      label,
    ),
  );
  const notice = part('problem');
  notice.replaceChildren(
    make(
      'div',
      {},
      make('h2', {}, title),
      make('p', {}, advice),
      make('details', {}, make('summary', {}, 'Details'), make('p', {}, detail)),
    ),
    make('div', { className: 'row', id: 'problem-actions' }, ...buttons),
  );
  notice.hidden = false;
  // On a small screen what is looked at may be far below.
  notice.scrollIntoView({ block: 'nearest' });
}

export function hideNotice(): void {
  part('problem').hidden = true;
}
