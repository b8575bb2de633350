/**
 * The terminal on a machine's first serial line: as wide as its place allows, up to the 80 columns
 * that systems take for granted, in a size that can be read.
 */
import { FitAddon } from '@xterm/addon-fit';
import { Terminal } from '@xterm/xterm';
import '@xterm/xterm/css/xterm.css';
import { toClipboard } from '../page/clipboard.ts';

const COLUMNS_MAX = 80;
const ROWS_MIN = 10;
const FONT = "'DejaVu Sans Mono', 'Liberation Mono', Menlo, Consolas, monospace";
/** Width of a character by its height, in those fonts. */
const FONT_ASPECT = 0.602;
/** Where 80 columns would be smaller than this, there are fewer, which can be read. */
const FONT_MIN = 10;
const FONT_READABLE = 12;
const FONT_MAX = 15;
const PADDING = 16;
/** What is kept of the terminal with a machine's state. */
const LINES_KEPT = 500;
/**
 * What is pasted goes to the machine in such pieces, so often: no system is told here when it has
 * taken the last one, and terminals drop what they cannot hold.
 */
const PIECE_BYTES = 256;
const PIECE_MS = 12;

export class SerialTerminal {
  readonly #place: HTMLElement;
  readonly #terminal: Terminal;
  readonly #fit = new FitAddon();
  readonly #send: (bytes: Uint8Array) => void;
  #waiting: number[] = [];
  #sending: Promise<void> = Promise.resolve();
  #ended = false;
  /** The next character is a control character; called when it has been typed. */
  control: (() => void) | undefined;
  /** Takes what the machine says, instead of the terminal. */
  #diverted: ((bytes: Uint8Array) => void) | undefined;

  /** `spoken`: what is written is put where screen readers find it, which costs time. */
  constructor(place: HTMLElement, spoken: boolean, send: (bytes: Uint8Array) => void) {
    this.#place = place;
    this.#send = send;
    this.#terminal = new Terminal({
      cols: COLUMNS_MAX,
      rows: 24,
      fontFamily: FONT,
      scrollback: 5000,
      screenReaderMode: spoken,
      theme: { background: '#070b0c', foreground: '#d6e2e5', cursor: '#5fd0e8' },
    });
    this.#terminal.loadAddon(this.#fit);
    this.#terminal.open(place);
    this.#terminal.attachCustomKeyEventHandler((event) => this.#isForTerminal(event));
    this.#terminal.onData((text) => {
      // Not between what the page itself says.
      if (!this.#diverted) this.type(this.#controlled(text));
    });
    this.fit();
  }

  set spoken(spoken: boolean) {
    this.#terminal.options.screenReaderMode = spoken;
  }

  /** Cursor keys have other codes while a program asks for them. */
  get cursorKeys(): string {
    return this.#terminal.modes.applicationCursorKeysMode ? '\x1bO' : '\x1b[';
  }

  get size(): { columns: number; rows: number } {
    return { columns: this.#terminal.cols, rows: this.#terminal.rows };
  }

  /** The last lines, as text. */
  get text(): string {
    const { active } = this.#terminal.buffer;
    const lines: string[] = [];
    for (let at = Math.max(0, active.length - LINES_KEPT); at < active.length; at++)
      lines.push(active.getLine(at)?.translateToString(true) ?? '');
    return lines.join('\n').trimEnd();
  }

  /** What is selected, or the last lines. */
  get chosen(): string {
    return this.#terminal.getSelection() || this.text;
  }

  /** Shows a byte of the machine. A write for each would cost more than the byte. */
  show(byte: number): void {
    if (this.#waiting.push(byte) > 1) return;
    setTimeout(() => {
      const bytes = Uint8Array.from(this.#waiting);
      this.#waiting = [];
      if (this.#diverted) this.#diverted(bytes);
      else this.#terminal.write(bytes);
    });
  }

  /** Shows text that stood here before. */
  showText(text: string): void {
    this.#terminal.write(text.replaceAll('\n', '\r\n'));
  }

  /** Sends to the machine at once: for who knows how much it takes. */
  send(text: string): void {
    this.#after(() => this.#send(new TextEncoder().encode(text)));
  }

  /** From now on the machine's bytes go there; undefined: to the terminal again. */
  divert(take: ((bytes: Uint8Array) => void) | undefined): void {
    this.#diverted = take;
  }

  /** Sends to the machine what is typed, one piece after another. */
  type(text: string): void {
    const bytes = new TextEncoder().encode(text);
    if (bytes.length <= PIECE_BYTES) return void this.#after(() => this.#send(bytes));
    for (let at = 0; at < bytes.length; at += PIECE_BYTES)
      this.#after(() => this.#send(bytes.subarray(at, at + PIECE_BYTES)), PIECE_MS);
  }

  /** As the user's own paste: programs that ask for it are told that it is one. */
  paste(text: string): void {
    this.#terminal.paste(text);
  }

  focus(): void {
    this.#terminal.focus();
  }

  /** As wide as a whole line, within reason: below, the columns become fewer. */
  fit(): void {
    const size = (this.#place.clientWidth - PADDING) / COLUMNS_MAX / FONT_ASPECT;
    if (!(size > 0)) return;
    this.#terminal.options.fontSize =
      size < FONT_MIN ? FONT_READABLE : Math.min(FONT_MAX, Math.floor(size * 2) / 2);
    const fitting = this.#fit.proposeDimensions();
    if (!fitting || !(fitting.cols > 0)) return;
    this.#terminal.resize(
      Math.min(COLUMNS_MAX, fitting.cols),
      Math.max(ROWS_MIN, fitting.rows || 0),
    );
  }

  end(): void {
    this.#ended = true;
    this.#terminal.dispose();
    this.#place.replaceChildren();
  }

  #controlled(text: string): string {
    if (!this.control || text.length !== 1) return text;
    this.control();
    this.control = undefined;
    return String.fromCharCode(text.toUpperCase().charCodeAt(0) & 0x1f);
  }

  #after(act: () => void, pauseMs = 0): void {
    this.#sending = this.#sending.then(async () => {
      if (this.#ended) return;
      act();
      if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
    });
  }

  /** F6 goes to the next pane; Ctrl+Shift+C copies, as in other terminals. */
  #isForTerminal(event: KeyboardEvent): boolean {
    if (event.key === 'F6') return false;
    if (!(event.ctrlKey && event.shiftKey && event.code === 'KeyC')) return true;
    event.preventDefault();
    if (event.type === 'keydown') void toClipboard(this.#terminal.getSelection());
    return false;
  }
}
