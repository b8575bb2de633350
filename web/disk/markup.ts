/** What the panel of a disk is made of: one markup, in the console and on the page of a server. */
import { make } from '../page/dom.ts';

/** Figures that a panel may have, by their words. */
const FIGURES = {
  copied: 'Copied',
  rate: 'Rate',
  left: 'Time left',
  requests: 'Requests',
  downloaded: 'Downloaded',
  read: 'Machine read',
  wrote: 'Machine wrote',
} as const;

export type Figure = keyof typeof FIGURES;

const SPEEDS: readonly [bytesPerSecond: number, text: string][] = [
  [0, 'unlimited'],
  [256 * 1024, '256 KiB/s'],
  [2 * 1024 * 1024, '2 MiB/s'],
  [8 * 1024 * 1024, '8 MiB/s'],
];

export interface PanelParts {
  map: HTMLCanvasElement;
  bar: HTMLProgressElement;
  figures: Partial<Record<Figure, HTMLElement>>;
  controls: HTMLElement;
  start: HTMLButtonElement;
  pause: HTMLButtonElement;
  resume: HTMLButtonElement;
  abort: HTMLButtonElement;
  speed: HTMLSelectElement;
  speedField: HTMLElement;
  /** Fields of the job, as they are. */
  info: HTMLElement;
}

/** The colours of the map, by their classes; those of a machine only where there is one. */
function legend(hasMachine: boolean): HTMLElement {
  const colours: [string, string][] = [
    ['absent', 'not copied yet'],
    ['data', 'copied from the image'],
    ['zero', 'empty'],
  ];
  if (hasMachine) colours.push(['written', 'written by the machine'], ['read', 'being read']);
  const list = make('ul', { className: 'legend', ariaLabel: 'Colours of the map' });
  for (const [className, text] of colours) list.append(make('li', { className }, text));
  return list;
}

/** Fills `root`; `tools` come at the end of the row of buttons. */
export function makePanel(
  root: HTMLElement,
  title: string,
  names: readonly Figure[],
  tools: readonly HTMLElement[],
): PanelParts {
  const button = (className: string, text: string): HTMLButtonElement =>
    make('button', { type: 'button', className }, text);
  const parts: PanelParts = {
    map: make('canvas', { className: 'map', role: 'img', ariaLabel: 'Map of the disk' }),
    bar: make('progress', { max: 1, value: 0, ariaLabel: 'Part of the disk that is copied' }),
    figures: {},
    controls: make('div', { className: 'row controls', hidden: true }),
    start: button('job-start', 'Copy the rest'),
    pause: button('job-pause', 'Pause'),
    resume: button('job-resume', 'Resume'),
    abort: button('job-abort', 'Stop copying'),
    speed: make('select', { className: 'job-speed' }),
    speedField: make('label', { className: 'inline' }, 'Speed '),
    info: make('pre', { className: 'job-info', tabIndex: 0 }),
  };
  for (const [value, text] of SPEEDS) parts.speed.append(new Option(text, String(value)));
  parts.speedField.append(parts.speed);
  const { start, pause, resume, abort, speedField } = parts;
  parts.controls.append(start, pause, resume, abort, speedField);
  if (tools.length > 0) parts.controls.append(make('span', { className: 'grow' }), ...tools);
  const figures = make('dl', { className: 'figures' });
  for (const name of names) {
    const value = (parts.figures[name] = make('dd', { className: name }, '–'));
    figures.append(make('div', {}, make('dt', {}, FIGURES[name]), value));
  }
  root.replaceChildren(
    make('h2', {}, title),
    parts.map,
    legend(names.includes('wrote')),
    parts.bar,
    figures,
    parts.controls,
    make('details', { className: 'info' }, make('summary', {}, 'Details of the copy'), parts.info),
  );
  return parts;
}
