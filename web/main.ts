/**
 * The console: goes between the list of disks and a machine at work, and takes what the user asks
 * for.
 */
import './style/base.css';
import './style/start.css';
import './style/console.css';
import './style/dialogs.css';
import './style/disk.css';
import { MillraceError, persistDisks } from '../hosts/browser/index.ts';
import type { DiskPanel } from './disk/panel.ts';
import { takeDisk } from './images/copies.ts';
import { linkTo, showLink } from './images/link.ts';
import { showDisks } from './images/list.ts';
import { diskFrom, freeName, nameOf, withoutEnding } from './images/names.ts';
import { note, notesOf } from './images/notes.ts';
import type { Sample } from './images/samples.ts';
import { fetchSamples, showSamples } from './images/samples.ts';
import { makeDiskPane } from './machine/disk-pane.ts';
import { wireKeys } from './machine/keys.ts';
import { Panes } from './machine/panes.ts';
import type { Boot } from './machine/session.ts';
import { Session } from './machine/session.ts';
import { isSpoken, noteSpoken } from './machine/settings.ts';
import { wireTools } from './machine/tools.ts';
import { showAbout } from './page/about.ts';
import { announce, answerTo, chooseFile, part } from './page/dom.ts';
import type { Remedy } from './page/notice.ts';
import { hideNotice } from './page/notice.ts';
import { needsBoot, needsFile, showProblem } from './page/problems.ts';
import { transfer } from './page/transfer.ts';

const MEBIBYTE = 1024 * 1024;

let session: Session | undefined;
/** Gives up the disk that is being opened. */
let opening: AbortController | undefined;
/**
 * Until then the disk of the machine that was switched off last is in use, and so is the place
 * where it was shown.
 */
let ended: Promise<void> = Promise.resolve();
let samples: Sample[] = [];
const panel: DiskPanel = makeDiskPane(() => session);
const panes: Panes = new Panes(() => session !== undefined);

async function boot(wanted: Boot): Promise<void> {
  if (opening || session) return;
  const { signal } = (opening = new AbortController());
  hideNotice();
  part('title').textContent = wanted.wait
    ? `Waiting until the other tab closes ${wanted.name} …`
    : `Opening ${wanted.name} …`;
  part('give-up').hidden = false;
  try {
    void persistDisks();
    show('console');
    await ended;
    signal.throwIfAborted();
    session = await Session.start(
      wanted,
      { panel, panes, failed: (error) => void gaveUp(error, wanted) },
      signal,
    );
    opened();
    history.replaceState(null, '', `#disk=${encodeURIComponent(wanted.name)}`);
    part('title').textContent = wanted.name;
    document.title = `${wanted.name} – Millrace`;
    part('power').hidden = false;
    part('share').hidden = notesOf(wanted.name).image === undefined;
    announce(`${wanted.name} boots.`);
  } catch (error) {
    // The list is shown already, and another disk may be.
    if (signal.aborted) return;
    await gaveUp(error, wanted);
  }
}

/** A machine that does not start: says why, and what can be done. */
async function gaveUp(error: unknown, wanted: Boot): Promise<void> {
  opened();
  await showStart();
  showProblem(error, remediesFor(error, wanted));
  part('problem-actions').querySelector('button')?.focus();
}

function opened(): void {
  opening = undefined;
  part('give-up').hidden = true;
}

/** What can be done about a disk that did not open. */
function remediesFor(error: unknown, wanted: Boot): Remedy[] {
  if (needsBoot(error))
    return [{ label: 'Boot it', act: () => void boot({ ...wanted, fresh: true }) }];
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

/** Boots the image at an address: the disk that was made from it before, or a new one. */
async function bootImage(image: string): Promise<void> {
  const known = await diskFrom(image);
  if (known === undefined) return bootNew(nameOf(image, samples), image);
  const answer = await answerTo({
    title: `Continue with ${known}?`,
    text: 'You have booted this image before, and what the machine wrote is still here. Starting afresh makes another disk, and leaves that one as it is.',
    yes: 'Continue',
    other: 'Start afresh',
  });
  if (answer === 'yes') await boot({ name: known, create: false });
  if (answer === 'other') await bootNew(nameOf(image, samples), image);
}

/** Makes a new disk over an image, and boots it. */
async function bootNew(wanted: string, base: string | File): Promise<void> {
  const name = await freeName(wanted);
  note(name, {
    memory: Number(part<HTMLSelectElement>('memory').value) * MEBIBYTE,
    written: undefined,
    image: typeof base === 'string' ? base : undefined,
  });
  await boot({ name, create: true, base });
}

async function importFile(file: File): Promise<void> {
  await takeDisk(await freeName(withoutEnding(file.name)), file);
  await showStart();
}

/** Ends a machine that is at work, or is about to be, and shows the list. */
async function showStart(): Promise<void> {
  opening?.abort();
  opened();
  if (session) {
    // It is that machine's, and what is offered to be done about it is too.
    hideNotice();
    part('title').textContent = `Switching off ${session.name} …`;
    ended = session.end().catch(showProblem);
    session = undefined;
  }
  part('power').hidden = true;
  document.title = 'Millrace';
  if (location.hash !== '') history.replaceState(null, '', location.pathname + location.search);
  await ended;
  // Something else may have been booted meanwhile.
  if (opening || session) return;
  part('title').textContent = '';
  await showDisks((name, fresh) => void boot({ name, create: false, fresh })).catch(showProblem);
  // Never as it was before.
  if (!opening && !session) show('start');
}

async function switchOff(): Promise<void> {
  const name = session?.name;
  await showStart();
  announce(`${name} is switched off.`);
  focusRow(`Boot: ${name}`);
}

/** Switches the machine off so that it can go on where it was. */
async function suspend(): Promise<void> {
  const suspended = session;
  if (!suspended) return;
  const done = await transfer(
    `Suspending ${suspended.name}`,
    ({ onProgress: progress, signal }) => {
      progress(0);
      return suspended.suspend(signal);
    },
  );
  if (!done || session !== suspended) return;
  await showStart();
  focusRow(`Continue: ${suspended.name}`);
}

function focusRow(label: string): void {
  [...part('disks').querySelectorAll('button')]
    .find(({ ariaLabel }) => ariaLabel === label)
    ?.focus();
}

function show(view: 'start' | 'console'): void {
  part('start').hidden = view !== 'start';
  part('console').hidden = view !== 'console';
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
  files('file', (file) => bootNew(withoutEnding(file.name), file));
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
  part('suspend').addEventListener('click', () => void suspend());
  part('off').addEventListener('click', () => void switchOff());
  part('restart').addEventListener('click', () => session?.machine.restart());
  part('share').addEventListener('click', () => {
    const image = session && notesOf(session.name).image;
    if (image) showLink(linkTo(image)).catch(showProblem);
  });
  const spoken = part<HTMLInputElement>('spoken');
  spoken.checked = isSpoken();
  spoken.addEventListener('change', () => noteSpoken(spoken.checked));
  wireDrop();
  wireTools(() => session?.machine);
  wireKeys(() => session && { machine: session.machine, shown: panes.shown });
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
    if (file && !session) bootNew(withoutEnding(file.name), file).catch(showProblem);
  });
}

/** What the address asks for: a disk that is here, or an image. */
async function follow(hash: URLSearchParams): Promise<void> {
  const [disk, image] = [hash.get('disk'), hash.get('image')];
  if (disk !== null) return boot({ name: disk, create: false });
  await showStart();
  if (image === null) return;
  if (!URL.canParse(image, document.baseURI))
    throw new MillraceError('EINVAL', `the address of this page names no image: '${image}'`);
  await bootImage(new URL(image, document.baseURI).href);
}

async function start(): Promise<void> {
  const hash = new URLSearchParams(location.hash.slice(1));
  wire();
  showAbout('help.html');
  samples = await fetchSamples();
  showSamples(samples, ({ url }) => void bootImage(url).catch(showProblem));
  await follow(hash).catch(showProblem);
}

// Only an address that the user has gone to is told here.
addEventListener('hashchange', () => location.reload());
if (import.meta.env.PROD && navigator.serviceWorker) {
  navigator.serviceWorker
    .register('sw.js')
    .catch((error) => console.warn(`the page will not open without a network: ${String(error)}`));
}
await start();
