/** Copies that take their time, one at a time: with a bar, and a way to cancel them. */
import type { CopyOptions } from '../../hosts/browser/index.ts';
import { announce, make, part } from './dom.ts';
import { percent } from './format.ts';
import type { Remedy } from './notice.ts';
import { showProblem } from './problems.ts';

/** Until then a download has surely begun, and its address can be given back. */
const DOWNLOAD_MS = 60_000;

let running: AbortController | undefined;

/** Runs a copy under the bar. Problems are shown; true when it is done. */
export async function transfer(
  text: string,
  action: (copy: Required<CopyOptions>) => Promise<void>,
  remedies: (error: unknown) => Remedy[] = () => [],
): Promise<boolean> {
  if (running) {
    showProblem(new Error('another transfer is under way: wait for it, or cancel it'));
    return false;
  }
  running = new AbortController();
  const { signal } = running;
  const bar = part<HTMLProgressElement>('transfer-bar');
  const progress = (done: number): void => {
    bar.value = done;
    part('transfer-text').textContent = `${text} · ${percent(done)}`;
    part('transfer-stop').hidden = false;
  };
  part('transfer-text').textContent = `${text} …`;
  bar.removeAttribute('value');
  part('transfer-stop').hidden = true;
  part('transfer-stop').onclick = () => running?.abort();
  part('transfer').hidden = false;
  try {
    await action({ onProgress: progress, signal });
    announce(`${text}: done.`);
    return true;
  } catch (error) {
    if (!signal.aborted) showProblem(error, remedies(error));
    return false;
  } finally {
    running = undefined;
    part('transfer').hidden = true;
  }
}

/** Saves a file as the browser saves what is downloaded. */
export function download(name: string, blob: Blob): void {
  const url = URL.createObjectURL(blob);
  make('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), DOWNLOAD_MS);
}
