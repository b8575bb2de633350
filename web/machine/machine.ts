/**
 * The virtual machine: v86 with its screen and keyboard, and its first serial port in a terminal.
 * It knows nothing of disks.
 */
import { Terminal } from '@xterm/xterm';
import '@xterm/xterm/css/xterm.css';
import biosUrl from 'seabios/bios.bin?url';
import vgaBiosUrl from 'seabios/vgabios-stdvga.bin?url';
import type { V86Options } from 'v86';
import { V86 } from 'v86';
import v86Url from 'v86/build/v86.wasm?url';
import type { Emulator } from '../../hosts/faces/v86/index.ts';

const VGA_MEMORY_BYTES = 8 * 1024 * 1024;
const COLUMNS = 80;
const ROWS = 24;
const FONT = "'DejaVu Sans Mono', 'Liberation Mono', Menlo, Consolas, monospace";
/** Width of a character by its height, in those fonts. */
const FONT_ASPECT = 0.602;
const FONT_MIN = 10;
const FONT_MAX = 15;
const PADDING = 16;

export interface MachineParts {
  hda: V86Options['hda'];
  /** Bytes. */
  memory: number;
  screen: HTMLElement;
  serial: HTMLElement;
  /**
   * Whether what comes on the serial console is put where screen readers find it, which costs time.
   */
  spoken: HTMLInputElement;
}

export class Machine {
  readonly #emulator: V86;
  readonly #terminal: Terminal;
  readonly #parts: MachineParts;
  readonly #resized: ResizeObserver;
  readonly #abort = new AbortController();
  /** v86 has been loaded: before, it can be neither stopped nor destroyed. */
  #ready = false;

  constructor(parts: MachineParts) {
    this.#parts = parts;
    this.#terminal = new Terminal({
      cols: COLUMNS,
      rows: ROWS,
      fontFamily: FONT,
      fontSize: fontSizeFor(parts.serial),
      scrollback: 5000,
      screenReaderMode: parts.spoken.checked,
      theme: { background: '#070b0c', foreground: '#d6e2e5', cursor: '#5fd0e8' },
    });
    this.#terminal.open(parts.serial);
    this.#terminal.attachCustomKeyEventHandler((event) => event.key !== 'F6');
    this.#emulator = new V86({
      wasm_path: v86Url,
      bios: { url: biosUrl },
      vga_bios: { url: vgaBiosUrl },
      hda: parts.hda,
      memory_size: parts.memory,
      vga_memory_size: VGA_MEMORY_BYTES,
      screen: { container: parts.screen },
      disable_speaker: true,
      autostart: false,
      fastboot: true,
    });
    this.#emulator.add_listener('emulator-loaded', () => {
      this.#ready = true;
      // One that was given up meanwhile is never started.
      void (this.#abort.signal.aborted ? this.#emulator.destroy() : this.#emulator.run());
    });
    this.#wireSerial();
    this.#wireScreen();
    this.#resized = new ResizeObserver(() => this.#fit());
    this.#resized.observe(parts.serial);
    this.#resized.observe(parts.screen);
    this.#terminal.focus();
  }

  /** For the disk, which stops it and lets it go on. */
  get emulator(): Emulator {
    return this.#emulator;
  }

  restart(): void {
    if (this.#ready) this.#emulator.restart();
  }

  /** Stops the machine for good, as if its plug were pulled. */
  async end(): Promise<void> {
    this.#resized.disconnect();
    this.#abort.abort();
    if (this.#ready) await this.#emulator.destroy();
    this.#terminal.dispose();
    this.#parts.serial.replaceChildren();
    this.#parts.screen.replaceChildren(
      document.createElement('div'),
      document.createElement('canvas'),
    );
  }

  #wireSerial(): void {
    const { spoken } = this.#parts;
    spoken.addEventListener(
      'change',
      () => (this.#terminal.options.screenReaderMode = spoken.checked),
      { signal: this.#abort.signal },
    );
    let waiting: number[] = [];
    // A write to the terminal for each byte would cost more than the byte.
    const write = (): void => {
      this.#terminal.write(Uint8Array.from(waiting));
      waiting = [];
    };
    this.#emulator.add_listener('serial0-output-byte', (byte) => {
      if (waiting.push(byte) === 1) setTimeout(write);
    });
    this.#terminal.onData((text) =>
      this.#emulator.serial_send_bytes(0, new TextEncoder().encode(text)),
    );
  }

  /** Keys go to the machine while its screen has the focus, and not otherwise. */
  #wireScreen(): void {
    const { screen } = this.#parts;
    const { signal } = this.#abort;
    const keyboard = (on: boolean): void => {
      if (this.#ready) this.#emulator.keyboard_set_enabled(on);
    };
    this.#emulator.add_listener('emulator-loaded', () => {
      if (signal.aborted) return;
      keyboard(document.activeElement === screen);
      this.#emulator.mouse_set_enabled(false);
      this.#fit();
    });
    this.#emulator.add_listener('screen-set-size', () => setTimeout(() => this.#fit()));
    screen.addEventListener('focus', () => keyboard(true), { signal });
    screen.addEventListener('blur', () => keyboard(false), { signal });
  }

  /** Scales both screens to the room they have. */
  #fit(): void {
    const { screen, serial } = this.#parts;
    this.#terminal.options.fontSize = fontSizeFor(serial);
    for (const layer of screen.children as HTMLCollectionOf<HTMLElement>) {
      layer.style.scale = '';
      if (layer.offsetWidth === 0) continue;
      const room = Math.min(
        (screen.clientWidth - PADDING) / layer.offsetWidth,
        (screen.clientHeight - PADDING) / layer.offsetHeight,
      );
      layer.style.scale = String(room);
    }
  }
}

/** The largest font that shows a whole line, within reason: below, the terminal scrolls. */
function fontSizeFor(serial: HTMLElement): number {
  const size = (serial.clientWidth - PADDING) / COLUMNS / FONT_ASPECT;
  return Math.max(FONT_MIN, Math.min(FONT_MAX, Math.floor(size * 2) / 2));
}
