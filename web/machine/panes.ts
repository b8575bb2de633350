/**
 * The panes of a machine at work: which of its serial console and its screen is in front, how the
 * room is divided, full screen, and the way from pane to pane.
 */

import { part } from '../page/dom.ts';
import { noteSplit, split } from './settings.ts';

export type Pane = 'serial' | 'screen';

const PANES = ['serial-pane', 'screen-pane', 'disk-pane'];
/** Parts of the width that the serial console has: with nothing known, and where one is used. */
const HALF = 50;
const MAIN: Readonly<Record<Pane, number>> = { serial: 58, screen: 42 };
const [SPLIT_MIN, SPLIT_MAX, SPLIT_STEP] = [25, 75, 5];

/** What browsers have that let a page keep Escape in full screen. */
interface KeyboardLock {
  keyboard?: { lock?(keys: string[]): Promise<void> };
}

export class Panes {
  /** The user's own choice for this machine. */
  #chosen = false;
  #shown: Pane = 'serial';

  /** `atWork` tells whether there is a machine. */
  constructor(atWork: () => boolean) {
    for (const pane of ['serial', 'screen'] as const) {
      part(`show-${pane}`).addEventListener('click', () => {
        this.#chosen = true;
        this.#show(pane);
      });
      part(`${pane}-full`).addEventListener('click', () => void fillScreen(part(`${pane}-pane`)));
      part(`${pane}-pane`).addEventListener('focusin', () => (this.#shown = pane));
    }
    wireF6(atWork);
    this.#wireSplit();
    this.#show('serial');
  }

  /** The one in front, or used last. */
  get shown(): Pane {
    return this.#shown;
  }

  /** For a new machine. */
  begin(): void {
    this.#chosen = false;
    this.#show('serial');
    this.#divide(split() ?? HALF);
  }

  /** What the machine uses comes to the front, unless the user has chosen. */
  uses(pane: Pane): void {
    if (this.#chosen) return;
    this.#show(pane);
    this.#divide(split() ?? MAIN[pane]);
  }

  #show(pane: Pane): void {
    this.#shown = pane;
    part('console').dataset.shown = pane;
    for (const one of ['serial', 'screen'] as const)
      part(`show-${one}`).ariaPressed = String(one === pane);
  }

  #divide(percent: number): void {
    const separator = part('divider');
    const value = Math.min(SPLIT_MAX, Math.max(SPLIT_MIN, Math.round(percent)));
    separator.ariaValueNow = String(value);
    separator.ariaValueText = `${value} % for the serial console`;
    part('console').style.setProperty('--serial', `${value}fr`);
    part('console').style.setProperty('--screen', `${100 - value}fr`);
  }

  /** Dragged, or moved by keys; a double click forgets what was chosen. */
  #wireSplit(): void {
    const separator = part('divider');
    const choose = (percent: number): void => {
      this.#divide(percent);
      noteSplit(Number(separator.ariaValueNow));
    };
    separator.addEventListener('pointerdown', (event) => {
      event.preventDefault();
      separator.setPointerCapture(event.pointerId);
    });
    separator.addEventListener('pointermove', (event) => {
      if (!separator.hasPointerCapture(event.pointerId)) return;
      const { left, width } = part('console').getBoundingClientRect();
      choose(((event.clientX - left) / width) * 100);
    });
    separator.addEventListener('dblclick', () => {
      noteSplit(undefined);
      this.#divide(HALF);
    });
    separator.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: -SPLIT_STEP, ArrowRight: SPLIT_STEP }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      choose(Number(separator.ariaValueNow) + step);
    });
    this.#divide(split() ?? HALF);
  }
}

/** In and out of full screen. Escape goes to the machine where the browser allows that. */
async function fillScreen(pane: HTMLElement): Promise<void> {
  if (document.fullscreenElement) return document.exitFullscreen();
  await pane.requestFullscreen?.();
  await (navigator as KeyboardLock).keyboard?.lock?.(['Escape']).catch(() => {});
  pane.querySelector<HTMLElement>('textarea.xterm-helper-textarea, #screen')?.focus();
}

/**
 * F6 goes from pane to pane while a machine is at work: out of the terminal and the screen, which
 * take every other key for the machine.
 */
function wireF6(atWork: () => boolean): void {
  addEventListener(
    'keydown',
    (event) => {
      if (event.key !== 'F6' || !atWork()) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const panes = PANES.map(part).filter((pane) => pane.offsetParent !== null);
      const at = panes.findIndex((pane) => pane.contains(document.activeElement));
      const step = event.shiftKey ? panes.length - 1 : 1;
      const next = panes[(at + step + (at < 0 && event.shiftKey ? 1 : 0)) % panes.length];
      (next.querySelector<HTMLElement>('.xterm-helper-textarea, #screen') ?? next).focus();
    },
    { capture: true },
  );
}
