/**
 * The virtual machine: v86 with its screen and keyboard, and its first serial port in a terminal.
 * It knows nothing of disks.
 */
import biosUrl from 'seabios/bios.bin?url';
import vgaBiosUrl from 'seabios/vgabios-stdvga.bin?url';
import type { V86Options } from 'v86';
import { V86 } from 'v86';
import v86Url from 'v86/build/v86.wasm?url';
import type { Emulator } from '../../hosts/faces/v86/index.ts';
import { SerialTerminal } from './terminal.ts';

const VGA_MEMORY_BYTES = 8 * 1024 * 1024;
const PADDING = 16;
/** By the codes of a PC's keyboard (set 1): pressed in this order, released in the other. */
const CTRL_ALT_DEL = [0x1d, 0x38, 0x53, 0xd3, 0xb8, 0x9d];

export interface MachineParts {
  hda: V86Options['hda'];
  /** Bytes. */
  memory: number;
  screen: HTMLElement;
  /** Where a phone's keyboard types for the screen. */
  screenKeys: HTMLElement;
  serial: HTMLElement;
  /**
   * Whether what comes on the serial console is put where screen readers find it, which costs time.
   */
  spoken: HTMLInputElement;
  /** What `save` gave, to go on from there. */
  state?: ArrayBuffer;
  /** What the machine says first: on its serial line, or by graphics on its screen. */
  uses(what: 'serial' | 'screen'): void;
  /** The emulator is loaded, and the machine runs. */
  runs(): void;
  /** It cannot go on from the state. */
  failed(error: unknown): void;
}

export class Machine {
  readonly terminal: SerialTerminal;
  readonly #emulator: V86;
  readonly #parts: MachineParts;
  readonly #resized: ResizeObserver;
  readonly #abort = new AbortController();
  /** v86 has been loaded: before, it can be neither stopped nor destroyed. */
  #ready = false;

  constructor(parts: MachineParts) {
    this.#parts = parts;
    this.terminal = new SerialTerminal(parts.serial, parts.spoken.checked, (bytes) => {
      if (this.#ready) this.#emulator.serial_send_bytes(0, bytes);
    });
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
    this.#emulator.add_listener('emulator-loaded', () => void this.#begin());
    this.#wireSerial();
    this.#wireScreen();
    this.#resized = new ResizeObserver(() => this.#fit());
    this.#resized.observe(parts.serial);
    this.#resized.observe(parts.screen);
    this.terminal.focus();
  }

  /** For the disk, which stops it and lets it go on. */
  get emulator(): Emulator {
    return this.#emulator;
  }

  restart(): void {
    if (this.#ready) this.#emulator.restart();
  }

  /** Keys of a PC's keyboard by their codes (set 1), as they are pressed and released. */
  press(codes: readonly number[]): void {
    if (this.#ready) this.#emulator.keyboard_send_scancodes([...codes]);
  }

  ctrlAltDel(): void {
    this.press(CTRL_ALT_DEL);
  }

  /** Types a text on the machine's keyboard, which it takes for an American one. */
  type(text: string): void {
    if (this.#ready) this.#emulator.keyboard_send_text(text);
  }

  /** What a machine that stands still is to go on from; its disk has been flushed. */
  save(): Promise<ArrayBuffer> {
    return this.#emulator.save_state();
  }

  /** Stops the machine for good, as if its plug were pulled. */
  async end(): Promise<void> {
    this.#resized.disconnect();
    this.#abort.abort();
    if (this.#ready) await this.#emulator.destroy();
    this.terminal.end();
    this.#parts.screen.replaceChildren(
      document.createElement('div'),
      document.createElement('canvas'),
    );
  }

  async #begin(): Promise<void> {
    this.#ready = true;
    // One that was given up meanwhile is never started.
    if (this.#abort.signal.aborted) return void this.#emulator.destroy();
    const { state, screen, screenKeys } = this.#parts;
    try {
      if (state) await this.#emulator.restore_state(state);
    } catch (error) {
      return this.#parts.failed(error);
    }
    if (this.#abort.signal.aborted) return;
    const { activeElement } = document;
    this.#emulator.keyboard_set_enabled(activeElement === screen || activeElement === screenKeys);
    this.#emulator.mouse_set_enabled(false);
    this.#fit();
    await this.#emulator.run();
    this.#parts.runs();
  }

  #wireSerial(): void {
    const { spoken, uses } = this.#parts;
    spoken.addEventListener('change', () => (this.terminal.spoken = spoken.checked), {
      signal: this.#abort.signal,
    });
    let silent = true;
    this.#emulator.add_listener('serial0-output-byte', (byte) => {
      if (silent) uses('serial');
      silent = false;
      this.terminal.show(byte);
    });
  }

  /** Keys go to the machine while its screen has the focus, and not otherwise. */
  #wireScreen(): void {
    const { screen, screenKeys, uses } = this.#parts;
    const { signal } = this.#abort;
    const keyboard = (on: boolean): void => {
      if (this.#ready) this.#emulator.keyboard_set_enabled(on);
    };
    this.#emulator.add_listener('screen-set-size', ([, , bitsPerPixel]) => {
      if (bitsPerPixel > 0) uses('screen');
      setTimeout(() => this.#fit());
    });
    for (const element of [screen, screenKeys]) {
      element.addEventListener('focus', () => keyboard(true), { signal });
      element.addEventListener('blur', () => keyboard(false), { signal });
    }
  }

  /** Scales both screens to the room they have. */
  #fit(): void {
    const { screen } = this.#parts;
    this.terminal.fit();
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
