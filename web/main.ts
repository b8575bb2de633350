/**
 * The console: goes between the list of disks and a machine at work, and takes what the user asks
 * for.
 */
import './style.css';
import { listDisks, MillraceError, persistDisks } from '../hosts/browser/index.ts';
import { announce, chooseFile, make, part } from './dom.ts';
import { bytes } from './format.ts';
import { isSpoken, note, noteSpoken } from './memory.ts';
import type { Remedy } from './problems.ts';
import { hideProblem, needsFile, showProblem } from './problems.ts';
import type { Boot } from './session.ts';
import { Session } from './session.ts';
import { showShelf } from './shelf.ts';
import { saveDisk, takeDisk } from './transfer.ts';

/** An image that this site offers, as samples.json beside the page lists it. */
interface Sample {
  name: string;
  /** Absolute, or relative to the page. */
  url: string;
  text?: string;
  /** Bytes of the image. */
  size?: number;
}

const MEBIBYTE = 1024 * 1024;
/**
 * Of a name that the page chooses, with its characters as they count in names of disks: less than
 * one may have, for a number behind it.
 */
const NAME_BYTES_MAX = 200;
const PANES = ['serial-pane', 'screen-pane', 'disk-pane'];

let session: Session | undefined;
/** Gives up the disk that is being opened. */
let opening: AbortController | undefined;
/**
 * Until then the disk of the machine that was switched off last is in use, and so is the place
 * where it was shown.
 */
let ended: Promise<void> = Promise.resolve();

async function boot(wanted: Boot): Promise<void> {
  if (opening || session) return;
  const { signal } = (opening = new AbortController());
  hideProblem();
  part('title').textContent = wanted.wait
    ? `Waiting until the other tab closes ${wanted.name} …`
    : `Opening ${wanted.name} …`;
  part('give-up').hidden = false;
  try {
    void persistDisks();
    show('console');
    await ended;
    signal.throwIfAborted();
    session = await Session.start(wanted, signal);
    opened();
    history.replaceState(null, '', `#disk=${encodeURIComponent(wanted.name)}`);
    part('title').textContent = wanted.name;
    document.title = `${wanted.name} – Millrace`;
    part('power').hidden = false;
    announce(`${wanted.name} boots.`);
  } catch (error) {
    // The list is shown already, and another disk may be.
    if (signal.aborted) return;
    opened();
    await showStart();
    showProblem(error, remediesFor(error, wanted));
    part('problem-actions').querySelector('button')?.focus();
  }
}

function opened(): void {
  opening = undefined;
  part('give-up').hidden = true;
}

/** What can be done about a disk that did not open. */
function remediesFor(error: unknown, wanted: Boot): Remedy[] {
  if (!(error instanceof MillraceError)) return [];
  const again = { label: 'Try again', act: () => void boot(wanted) };
  if (error.code === 'EBUSY') return [{ label: 'Wait for it', act: () => void waitFor(wanted) }];
  if (needsFile(error))
    return [
      {
        label: 'Choose the file…',
        act: () => chooseFile((base) => void boot({ ...wanted, base })),
      },
    ];
  return error.code === 'EIO' || error.code === 'ETIMEDOUT' ? [again] : [];
}

async function waitFor(wanted: Boot): Promise<void> {
  announce('Waiting until the other tab closes the disk.');
  await boot({ ...wanted, wait: true });
}

/** Makes a new disk over an image, and boots it. */
async function bootImage(base: string | File): Promise<void> {
  const name = await freeName(typeof base === 'string' ? lastPartOf(base) : base.name);
  note(name, {
    memory: Number(part<HTMLSelectElement>('memory').value) * MEBIBYTE,
    written: undefined,
  });
  await boot({ name, create: true, base });
}

function lastPartOf(url: string): string {
  const part = new URL(url).pathname.split('/').pop()!;
  try {
    return decodeURIComponent(part);
  } catch {
    // A per cent sign that means itself.
    return part;
  }
}

/** A name for a disk that no disk has, from that of an image. */
async function freeName(image: string): Promise<string> {
  // Half of a character is no text.
  let wanted =
    image.replace(/\.(raw|img|qcow2|bin)$/i, '').replace(/\p{Surrogate}/gu, '') || 'disk';
  while (encodeURIComponent(wanted).length > NAME_BYTES_MAX)
    wanted = [...wanted].slice(0, -1).join('');
  const taken = new Set((await listDisks()).map(({ name }) => name));
  for (let number = 1; ; number++) {
    const name = number === 1 ? wanted : `${wanted} ${number}`;
    if (!taken.has(name)) return name;
  }
}

async function importFile(file: File): Promise<void> {
  await takeDisk(await freeName(file.name), file);
  await showStart();
}

/** Ends a machine that is at work, or is about to be, and shows the list. */
async function showStart(): Promise<void> {
  opening?.abort();
  opened();
  if (session) {
    // It is that machine's, and what is offered to be done about it is too.
    hideProblem();
    part('title').textContent = `Switching off ${session.name} …`;
    ended = session.end().catch(showProblem);
    session = undefined;
  }
  part('power').hidden = true;
  document.title = 'Millrace';
  if (location.hash.startsWith('#disk='))
    history.replaceState(null, '', location.pathname + location.search);
  await ended;
  // Something else may have been booted meanwhile.
  if (opening || session) return;
  part('title').textContent = '';
  show('start');
  await showShelf((name) => void boot({ name, create: false })).catch(showProblem);
}

async function switchOff(): Promise<void> {
  const name = session?.name;
  await showStart();
  announce(`${name} is switched off.`);
  [...part('disks').querySelectorAll('button')]
    .find(({ ariaLabel }) => ariaLabel === `Boot: ${name}`)
    ?.focus();
}

function show(view: 'start' | 'console'): void {
  part('start').hidden = view !== 'start';
  part('console').hidden = view !== 'console';
}

async function showSamples(): Promise<void> {
  const response = await fetch('samples.json').catch(() => undefined);
  // A site need not offer any; some servers answer with a page of theirs then.
  const samples = response?.ok ? ((await response.json().catch(() => [])) as Sample[]) : [];
  part('samples').replaceChildren(
    ...samples.map(({ name, url, text, size }) =>
      make(
        'button',
        {
          type: 'button',
          className: 'sample',
          onclick: () => void bootImage(new URL(url, document.baseURI).href).catch(showProblem),
        },
        make('b', {}, name),
        make('span', {}, [text, size && bytes(size)].filter(Boolean).join(' · ')),
      ),
    ),
  );
}

function wire(): void {
  const files = (id: string, take: (file: File) => Promise<void>): void => {
    const input = part<HTMLInputElement>(id);
    input.addEventListener('change', () => {
      const file = input.files?.[0];
      if (file) take(file).catch(showProblem);
      input.value = '';
    });
  };
  files('file', bootImage);
  files('import', importFile);
  part('boot').addEventListener('submit', (event) => {
    event.preventDefault();
    bootImage(part<HTMLInputElement>('url').value).catch(showProblem);
  });
  part('home').addEventListener('click', (event) => {
    event.preventDefault();
    void showStart();
  });
  part('give-up').addEventListener(
    'click',
    () => void showStart().then(() => part('boot-button').focus()),
  );
  part('off').addEventListener('click', () => void switchOff());
  const spoken = part<HTMLInputElement>('spoken');
  spoken.checked = isSpoken();
  spoken.addEventListener('change', () => noteSpoken(spoken.checked));
  part('restart').addEventListener('click', () => session?.restart());
  for (const format of ['qcow2', 'raw'] as const)
    part(`export-${format}`).addEventListener(
      'click',
      () => session && void saveDisk(session.name, format, session.disk),
    );
  wireDrop();
  wirePanes();
}

/** A file dropped anywhere boots, unless a machine is at work. */
function wireDrop(): void {
  addEventListener('dragover', (event) => {
    event.preventDefault();
    document.body.classList.toggle('dropping', !session);
  });
  addEventListener('dragleave', () => document.body.classList.remove('dropping'));
  addEventListener('drop', (event) => {
    event.preventDefault();
    document.body.classList.remove('dropping');
    const file = event.dataTransfer?.files[0];
    if (file && !session) bootImage(file).catch(showProblem);
  });
}

/**
 * F6 goes from pane to pane: out of the terminal and the screen, which take every other key for the
 * machine.
 */
function wirePanes(): void {
  addEventListener(
    'keydown',
    (event) => {
      if (event.key !== 'F6' || !session) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const panes = PANES.map(part);
      const at = panes.findIndex((pane) => pane.contains(document.activeElement));
      const next =
        panes[
          (at + (event.shiftKey ? panes.length - 1 : 1) + (at < 0 && event.shiftKey ? 1 : 0)) %
            panes.length
        ];
      (next.querySelector<HTMLElement>('textarea, #screen') ?? next).focus();
    },
    { capture: true },
  );
}

async function start(): Promise<void> {
  wire();
  const hash = new URLSearchParams(location.hash.slice(1));
  const disk = hash.get('disk');
  // A link may name an image; booting it is for the user to decide.
  part<HTMLInputElement>('url').value = hash.get('url') ?? '';
  await showSamples();
  if (disk !== null) await boot({ name: disk, create: false });
  else await showStart();
}

// Only an address that the user has gone to is told here.
addEventListener('hashchange', () => location.reload());
if (import.meta.env.PROD && navigator.serviceWorker) {
  navigator.serviceWorker
    .register('sw.js')
    .catch((error) => console.warn(`the page will not open without a network: ${String(error)}`));
}
await start();
