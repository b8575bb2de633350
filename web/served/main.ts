/**
 * The page of `millrace serve`: each disk with its map, its job and the job's buttons, by the parts
 * that the console is made of. It asks for the token where the server has one.
 */
import '../style/base.css';
import '../style/disk.css';
import './style.css';
import type { DiskWatch } from '../disk/panel.ts';
import { DiskPanel } from '../disk/panel.ts';
import { showAbout } from '../page/about.ts';
import { make, part } from '../page/dom.ts';
import { bytes } from '../page/format.ts';
import type { Remedy } from '../page/notice.ts';
import { hideNotice } from '../page/notice.ts';
import { remember, remembered } from '../page/storage.ts';
import { showServerProblem } from './problems.ts';
import type { ServedDisk } from './server.ts';
import { Server, TokenNeeded } from './server.ts';

const TOKEN = 'millrace/token';
/** Between two attempts at a server that does not answer. */
const RETRY_MS = 2000;

const server = new Server();
let watches: DiskWatch[] = [];
let retry: ReturnType<typeof setTimeout> | undefined;

/** Shows the disks, or asks for what is missing. */
async function enter(): Promise<void> {
  try {
    const disks = await server.disks();
    hideNotice();
    part('enter').hidden = true;
    part('leave').hidden = server.token === undefined;
    showNone();
    part('disks').append(...disks.map(show));
  } catch (error) {
    if (error instanceof TokenNeeded) return askForToken(server.token !== undefined);
    showServerProblem(error);
    clearTimeout(retry);
    retry = setTimeout(() => void enter(), RETRY_MS);
  }
}

function show(disk: ServedDisk): HTMLElement {
  const root = make('section', { className: 'pane wide', tabIndex: -1, ariaLabel: disk.device });
  const panel = new DiskPanel(root, {
    title: `${disk.device} · ${bytes(disk.size)}`,
    figures: ['copied', 'rate', 'left'],
    problem: (error, remedies) => problem(error, remedies, disk.device),
    recovered: hideNotice,
  });
  watches.push(panel.watch(disk));
  return root;
}

function problem(error: unknown, remedies: readonly Remedy[] | undefined, device: string): void {
  if (error instanceof TokenNeeded) askForToken(true);
  else showServerProblem(error, remedies, device);
}

/** It is kept as long as the tab is. */
function setToken(token: string | undefined): void {
  server.token = token;
  remember(TOKEN, token, 'sessionStorage');
}

function showNone(): void {
  for (const watch of watches) watch.end();
  watches = [];
  part('disks').replaceChildren();
}

function askForToken(wrong: boolean): void {
  clearTimeout(retry);
  showNone();
  hideNotice();
  setToken(undefined);
  part('leave').hidden = true;
  part('enter').hidden = false;
  part('wrong').textContent = wrong ? 'That is not the token of this server.' : '';
  const input = part<HTMLInputElement>('token');
  input.value = '';
  input.focus();
}

part('enter').addEventListener('submit', (event) => {
  event.preventDefault();
  setToken(part<HTMLInputElement>('token').value.trim());
  void enter();
});
part('leave').addEventListener('click', () => askForToken(false));
part('title').textContent = `Disks served at ${location.host}`;
document.title = `${location.host} – Millrace`;
showAbout();
server.token = remembered(TOKEN, 'sessionStorage');
await enter();
