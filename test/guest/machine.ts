/**
 * A machine in v86 under Node, with its serial console as a shell that answers. Screen, keyboard
 * and sound are left out.
 */
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { V86Options } from 'v86';
import { V86 } from 'v86';

/** Where Debian's package `seabios` puts the BIOS. */
export const BIOS_FOLDER = '/usr/share/seabios';
const MEMORY_BYTES = 128 * 1024 * 1024;
const VGA_MEMORY_BYTES = 8 * 1024 * 1024;

export class Machine {
  readonly emulator: V86;
  readonly #prompt: RegExp;
  #output = '';
  #heard: () => void = () => {};

  /** Starts a machine from a disk. `prompt` is what ends its output when the shell waits. */
  static async start(
    hda: V86Options['hda'],
    prompt: RegExp,
    more: Partial<V86Options> = {},
  ): Promise<Machine> {
    const bios = await bufferOf(join(BIOS_FOLDER, 'bios.bin'));
    const vgaBios = await bufferOf(join(BIOS_FOLDER, 'vgabios-stdvga.bin'));
    const emulator = new V86({
      wasm_path: join(dirname(createRequire(import.meta.url).resolve('v86')), 'v86.wasm'),
      bios: { buffer: bios },
      vga_bios: { buffer: vgaBios },
      hda,
      memory_size: MEMORY_BYTES,
      vga_memory_size: VGA_MEMORY_BYTES,
      disable_keyboard: true,
      disable_mouse: true,
      disable_speaker: true,
      autostart: true,
      fastboot: true,
      ...more,
    });
    return new Machine(emulator, prompt);
  }

  private constructor(emulator: V86, prompt: RegExp) {
    this.emulator = emulator;
    this.#prompt = prompt;
    emulator.add_listener('serial0-output-byte', (byte: number) => {
      this.#output += String.fromCharCode(byte);
      this.#heard();
    });
  }

  /** Waits until the shell waits for a command. Gives what was written since the last time. */
  async untilPrompt(): Promise<string> {
    while (!this.#prompt.test(this.#output))
      await new Promise<void>((resolve) => (this.#heard = resolve));
    const output = this.#output;
    this.#output = '';
    return output;
  }

  /** Runs a command line in the guest's shell. Gives its output. */
  async run(command: string): Promise<string> {
    this.emulator.serial0_send(`${command}\n`);
    return (await this.untilPrompt()).replaceAll('\r', '').split('\n').slice(1, -1).join('\n');
  }

  async stop(): Promise<void> {
    await this.emulator.stop();
    await this.emulator.destroy();
  }
}

async function bufferOf(path: string): Promise<ArrayBuffer> {
  const { buffer, byteOffset, length } = await readFile(path);
  return buffer.slice(byteOffset, byteOffset + length) as ArrayBuffer;
}
