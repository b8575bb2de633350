/** A machine in QEMU whose disk is an export over NBD, by its serial console. */
import { spawn } from 'node:child_process';
import { peerPath } from '../support/peer.ts';

/** Software emulation on a busy machine; alone, the prompt is there after some 15 seconds. */
export const BOOT_MS_MAX = 150_000;

export class QemuMachine {
  readonly child: ReturnType<typeof spawn>;
  #console = '';
  #read = 0;

  constructor(folder: string, socket: string) {
    const nbd = `driver=nbd,node-name=vda-nbd,server.type=unix,server.path=${socket},export=vda`;
    this.child = spawn(
      peerPath('qemu-system-x86_64'),
      [
        ...['-m', '256', '-net', 'none', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
        ...['-qmp', 'unix:qmp.sock,server=on,wait=off'],
        ...['-blockdev', `${nbd},reconnect-delay=120`],
        ...['-blockdev', 'driver=raw,node-name=vda,file=vda-nbd'],
        ...['-device', 'ide-hd,drive=vda'],
      ],
      { cwd: folder, stdio: ['pipe', 'pipe', 'inherit'] },
    );
    this.child.stdout!.setEncoding('latin1').on('data', (text) => {
      this.#console += text;
    });
  }

  /** Waits for what has not been read yet to match. */
  async until(pattern: RegExp, msMax: number): Promise<string> {
    const end = Date.now() + msMax;
    for (;;) {
      const text = this.#console.slice(this.#read);
      const match = pattern.exec(text);
      if (match) {
        this.#read += match.index + match[0].length;
        return text.slice(0, match.index + match[0].length);
      }
      if (Date.now() > end || this.child.exitCode !== null)
        throw new Error(`the machine did not say ${pattern}: …${this.#console.slice(-2000)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async type(line: string): Promise<string> {
    this.child.stdin!.write(`${line}; echo D''ONE $?\n`);
    return this.until(/DONE \d+/, BOOT_MS_MAX);
  }
}
