/** The list of disks in this browser, and what can be done with one that is not in use. */
import type { DiskRecord } from '../../hosts/browser/index.ts';
import { deleteDisk, listDisks, renameDisk, storageRoom } from '../../hosts/browser/index.ts';
import { announce, ask, make, part } from '../page/dom.ts';
import { ago, bytes, percent } from '../page/format.ts';
import { showProblem } from '../page/problems.ts';
import { saveDisk } from './copies.ts';
import * as notes from './notes.ts';

const NO_STORAGE =
  'The browser gives this page no storage, as in a private window or without https:. Machines boot, with their disks in memory until the page is left.';

async function keepsDisks(): Promise<boolean> {
  return (await navigator.storage?.getDirectory?.().catch(() => undefined)) !== undefined;
}

/** Starts a machine from its disk; one that was suspended goes on unless it is started `fresh`. */
export type Start = (name: string, fresh?: boolean) => void;

/** Shows the list anew. `boot` is called for the disk that is chosen. */
export async function showDisks(boot: Start): Promise<void> {
  const disks = await listDisks();
  disks.sort((a, b) => (b.lastUsed ?? 0) - (a.lastUsed ?? 0));
  part('no-disks').hidden = disks.length > 0;
  if (!(await keepsDisks())) part('no-disks').textContent = NO_STORAGE;
  const place = focusedPlace();
  part('disks').replaceChildren(...disks.map((disk) => row(disk, boot)));
  if (place) focusPlace(place);
  const { used, quota } = await storageRoom();
  part('room').textContent =
    quota > 0 ? `${bytes(used)} in use, of ${bytes(quota)} that this site may use` : '';
}

/** Which button of which row has the focus. */
function focusedPlace(): { row: number; button: number } | undefined {
  const rows = [...part('disks').children];
  const row = rows.findIndex((item) => item.contains(document.activeElement));
  return row < 0
    ? undefined
    : {
        row,
        button: [...rows[row].querySelectorAll('button')].indexOf(
          document.activeElement as HTMLButtonElement,
        ),
      };
}

/**
 * The list is made anew after each action; who uses it by keyboard stays in place, or as near as
 * can be.
 */
function focusPlace({ row, button }: { row: number; button: number }): void {
  const rows = part('disks').children;
  const item = rows[Math.min(row, rows.length - 1)];
  (item?.querySelectorAll('button')[button] ?? part('import')).focus();
}

function row(disk: DiskRecord, boot: Start): HTMLLIElement {
  const { name, size, remaining, lastUsed, state: suspended } = disk;
  const button = (label: string, onclick: () => void, className = ''): HTMLButtonElement =>
    make('button', { type: 'button', className, onclick, ariaLabel: `${label}: ${name}` }, label);
  /** What changes the list, or may. */
  const change = (label: string, act: () => Promise<void>, className?: string): HTMLElement =>
    button(
      label,
      () =>
        void act()
          .then(() => showDisks(boot))
          .catch(showProblem),
      className,
    );
  const starts = suspended
    ? [
        button('Continue', () => boot(name), 'main'),
        button('Boot', () => void bootAfresh(name, boot)),
      ]
    : [button('Boot', () => boot(name), 'main')];
  const about = make('div', {}, make('h3', {}, name), make('p', {}, ...state(disk)));
  if (suspended)
    about.append(make('p', {}, `suspended ${ago(suspended.saved)} · ${bytes(suspended.size)}`));
  else if (lastUsed !== undefined) about.append(make('p', {}, `used ${ago(lastUsed)}`));
  const item = make(
    'li',
    {},
    about,
    make(
      'div',
      { className: 'row' },
      ...starts,
      change('Rename', () => rename(name)),
      change('Export qcow2', () => saveDisk(name, 'qcow2')),
      change('Export raw', () => saveDisk(name, 'raw')),
      change('Delete', () => remove(name), 'danger'),
    ),
  );
  if (size && remaining)
    item.append(
      make('progress', {
        max: 1,
        value: 1 - remaining / size,
        ariaLabel: `Part of ${name} that is here`,
      }),
    );
  return item;
}

function state({ size, remaining, base }: DiskRecord): (Node | string)[] {
  if (size === undefined) return ['its size is not known until it is booted'];
  if (base === undefined || remaining === 0)
    return [
      `${bytes(size)} · `,
      make('span', { className: 'whole' }, 'complete: boots without the network'),
    ];
  const here = remaining === undefined ? '' : ` · ${percent(1 - remaining / size)} here`;
  return [`${bytes(size)}${here} · base ${base.name}`];
}

async function bootAfresh(name: string, boot: Start): Promise<void> {
  const answer = await ask({
    title: `Boot ${name} instead of continuing?`,
    text: 'The machine is suspended. Booted, it loses what was in its memory, as if its plug had been pulled.',
    yes: 'Boot',
    danger: true,
  });
  if (answer !== undefined) boot(name, true);
}

async function rename(name: string): Promise<void> {
  const to = await ask({
    title: `Rename ${name}`,
    text: 'The disk keeps everything else.',
    yes: 'Rename',
    name,
  });
  if (!to || to === name) return;
  await renameDisk(name, to);
  notes.rename(name, to);
  announce(`${name} is now called ${to}.`);
}

async function remove(name: string): Promise<void> {
  if (
    (await ask({
      title: `Delete ${name}?`,
      text: 'Everything the machine has written on it is lost for good. Export it first to keep a copy.',
      yes: 'Delete',
      danger: true,
    })) === undefined
  )
    return;
  await deleteDisk(name);
  notes.forget(name);
  announce(`${name} is deleted.`);
}
