/**
 * Files into the guest and out of it, by the shell on its serial line: as text in base64, line by
 * line, each asked for by the guest; compared by SHA-256 at the end. The shell is any of POSIX,
 * with `base64`, `head`, `wc`, `stty` and `sha256sum` (GNU coreutils and busybox have them).
 */
import type { CopyOptions } from '../../hosts/browser/index.ts';
import { bytes } from '../page/format.ts';
import { GuestProblem } from '../page/problems.ts';
import type { SerialTerminal } from './terminal.ts';

/** Of a file: it is in memory as a whole, and the line is slow. */
const FILE_BYTES_MAX = 64 * 1024 * 1024;
/** What one line of the terminal may hold is 4095 characters; a multiple of three for base64. */
const LINE_BYTES = 2250;
/** How long a shell that waits takes to answer, on a slow machine. */
const ANSWER_MS = 20_000;
/** Begins what the guest tells the page. Typed commands show it as an escape, never as itself. */
const MARK = '««';

/** Tells how it went, and the digest of the file. */
const SUM = 'printf \'\\253\\253D%s \' $?; sha256sum < "$f" || echo none';

type Copy = Required<CopyOptions>;

/** What the guest says meanwhile. */
class Conversation {
  readonly #terminal: SerialTerminal;
  readonly #signal: AbortSignal;
  readonly #decoder = new TextDecoder('latin1');
  #heard = '';
  #wake = (): void => {};

  constructor(terminal: SerialTerminal, signal: AbortSignal) {
    this.#terminal = terminal;
    this.#signal = signal;
    terminal.divert((piece) => {
      this.#heard += this.#decoder.decode(piece, { stream: true });
      this.#wake();
    });
    signal.addEventListener('abort', () => this.#wake());
  }

  say(text: string): void {
    this.#terminal.send(text);
  }

  /** What was heard is not needed yet. */
  putBack(text: string): void {
    this.#heard = text + this.#heard;
  }

  /** All that was heard since the last one; it is waited for. */
  async next(): Promise<string> {
    while (this.#heard === '') await this.#more();
    const heard = this.#heard;
    this.#heard = '';
    return heard;
  }

  /** Waits for what matches, and leaves what comes behind it. */
  async until(pattern: RegExp, withinMs?: number): Promise<RegExpExecArray> {
    while (true) {
      const found = pattern.exec(this.#heard);
      if (found) {
        this.#heard = this.#heard.slice(found.index + found[0].length);
        return found;
      }
      await this.#more(withinMs);
    }
  }

  /** Gives the line back to the user, with a new prompt; a command that runs is stopped. */
  end(stopped: boolean): void {
    this.say(stopped ? '\x03\r stty echo\r' : '\r');
    this.#terminal.divert(undefined);
  }

  async #more(withinMs?: number): Promise<void> {
    this.#signal.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const timer =
        withinMs === undefined
          ? undefined
          : setTimeout(
              () =>
                reject(
                  new GuestProblem(
                    'no shell answers on the serial console: log in there, and wait for its prompt',
                  ),
                ),
              withinMs,
            );
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#signal.throwIfAborted();
  }
}

/**
 * Puts a file into the folder that the shell is in.
 * @throws GuestProblem that says what went wrong, here or in the guest.
 */
export async function sendFile(
  terminal: SerialTerminal,
  file: File,
  name: string,
  { onProgress: progress, signal }: Copy,
): Promise<void> {
  mustFit(file.size);
  progress(0);
  const content = new Uint8Array(await file.arrayBuffer());
  const lines = Math.ceil(content.length / LINE_BYTES);
  await talk(terminal, signal, async (guest) => {
    guest.say(
      `${shell(name)}if : > "$f"; then n=0; while [ $n -lt ${lines} ]; do printf '\\253\\253+' >&2; head -n 1; n=$((n+1)); done | base64 -d > "$f"; ${SUM}; else printf '\\253\\253N\\n'; fi; stty echo\r`,
    );
    for (let line = 0; line < lines; line++) {
      const [answer] = await guest.until(/««[+N]/, line === 0 ? ANSWER_MS : undefined);
      if (answer === `${MARK}N`) throw new GuestProblem(`the guest cannot write '${name}' there`);
      const piece = content.subarray(line * LINE_BYTES, (line + 1) * LINE_BYTES);
      guest.say(`${btoa(String.fromCharCode(...piece))}\n`);
      progress(line / lines);
    }
    await mustBeTheSame(guest, content, name);
  });
}

/**
 * Takes a file out of the guest.
 * @throws GuestProblem that says what went wrong, here or in the guest.
 */
export async function fetchFile(
  terminal: SerialTerminal,
  path: string,
  { onProgress: progress, signal }: Copy,
): Promise<Blob> {
  let content = new Uint8Array();
  progress(0);
  await talk(terminal, signal, async (guest) => {
    guest.say(
      `${shell(path)}if [ -f "$f" ]; then printf '\\253\\253S%s\\n' $(wc -c < "$f"); base64 < "$f"; ${SUM}; else printf '\\253\\253N\\n'; fi; stty echo\r`,
    );
    const [, length] = await guest.until(/««(?:S(\d+)|N)\s*\n/, ANSWER_MS);
    if (length === undefined) throw new GuestProblem(`the guest has no file '${path}'`);
    mustFit(Number(length));
    content = new Uint8Array(Number(length));
    await gather(guest, content, progress);
    await mustBeTheSame(guest, content, path);
  });
  return new Blob([content], { type: 'application/octet-stream' });
}

function mustFit(length: number): void {
  if (length > FILE_BYTES_MAX)
    throw new GuestProblem(
      `${bytes(length)} are too much for the serial line, which takes ${bytes(FILE_BYTES_MAX)} at most: put the file on a disk image`,
    );
}

/** Fills `into` with what comes, up to the next mark. */
async function gather(
  guest: Conversation,
  into: Uint8Array,
  progress: (done: number) => void,
): Promise<void> {
  let [text, done, end] = ['', 0, -1];
  while (end < 0) {
    const heard = await guest.next();
    end = heard.indexOf(MARK);
    text += (end < 0 ? heard : heard.slice(0, end)).replace(/\s/g, '');
    const piece = atob(text.slice(0, text.length & ~3));
    text = text.slice(text.length & ~3);
    if (done + piece.length > into.length)
      throw new GuestProblem('the file grows while it is read');
    for (let at = 0; at < piece.length; at++) into[done + at] = piece.charCodeAt(at);
    done += piece.length;
    progress(into.length === 0 ? 1 : done / into.length);
    if (end >= 0) guest.putBack(heard.slice(end));
  }
}

/** @throws GuestProblem unless the guest has the same bytes. */
async function mustBeTheSame(
  guest: Conversation,
  content: Uint8Array<ArrayBuffer>,
  name: string,
): Promise<void> {
  const [, status, sum] = await guest.until(/««D(\d+) [\s\S]*?([0-9a-f]{64}|none)/);
  if (status !== '0')
    throw new GuestProblem(`the guest failed with '${name}' (exit code ${status})`);
  if (sum === 'none')
    throw new GuestProblem(`the guest has no sha256sum, so '${name}' is not compared`);
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', content));
  if (sum !== Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join(''))
    throw new GuestProblem(
      `'${name}' has not arrived as it was: try again while nothing else is typed`,
    );
}

/** What each command begins with: a line of its own, nothing that is shown, and the file's name. */
function shell(path: string): string {
  if (path === '' || /\p{Cc}/u.test(path))
    throw new GuestProblem(
      'the name of a file in the guest must not be empty, and must not have control characters',
    );
  return `\x15 stty -echo; f='${path.replaceAll("'", "'\\''")}'; `;
}

async function talk(
  terminal: SerialTerminal,
  signal: AbortSignal,
  act: (guest: Conversation) => Promise<void>,
): Promise<void> {
  const guest = new Conversation(terminal, signal);
  let stopped = true;
  try {
    await act(guest);
    stopped = false;
  } finally {
    guest.end(stopped);
  }
}
