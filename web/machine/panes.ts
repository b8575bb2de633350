/** The panes of a machine at work, and the way from one to the next. */
import { part } from '../page/dom.ts';

const PANES = ['serial-pane', 'screen-pane', 'disk-pane'];

/**
 * F6 goes from pane to pane while a machine is at work: out of the terminal and the screen, which
 * take every other key for the machine.
 */
export function wirePanes(atWork: () => boolean): void {
  addEventListener(
    'keydown',
    (event) => {
      if (event.key !== 'F6' || !atWork()) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const panes = PANES.map(part).filter(({ hidden }) => !hidden);
      const at = panes.findIndex((pane) => pane.contains(document.activeElement));
      const step = event.shiftKey ? panes.length - 1 : 1;
      const next = panes[(at + step + (at < 0 && event.shiftKey ? 1 : 0)) % panes.length];
      (next.querySelector<HTMLElement>('textarea, #screen') ?? next).focus();
    },
    { capture: true },
  );
}
