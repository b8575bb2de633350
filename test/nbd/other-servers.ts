/** Other NBD servers, at Unix sockets: nbdkit and qemu-nbd. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { peerPath } from '../support/peer.ts';

/** Starting takes no server so long. */
const START_MS_MAX = 15_000;

export interface Server {
  /** Where it listens. */
  socket: string;
  uri: string;
  /** As by a power cut. */
  kill(): Promise<void>;
}

/** Starts nbdkit with these arguments; `name` tells its socket from others in the folder. With a
 * port, it listens there instead. */
export async function startNbdkit(
  folder: string,
  args: readonly string[],
  name = 'nbdkit.sock',
  port?: number,
): Promise<Server> {
  const socket = join(folder, name);
  const ready = `${socket}.pid`;
  const at = port === undefined ? ['-U', socket] : ['-i', '127.0.0.1', '-p', String(port)];
  return start('nbdkit', ['-f', ...at, '-P', ready, ...args], socket, ready);
}

/** Starts qemu-nbd with these arguments. */
export async function startQemuNbd(
  folder: string,
  args: readonly string[],
  name = 'qemu.sock',
): Promise<Server> {
  const socket = join(folder, name);
  return start('qemu-nbd', ['-t', '-k', socket, ...args], socket, socket);
}

async function start(
  program: 'nbdkit' | 'qemu-nbd',
  args: readonly string[],
  socket: string,
  ready: string,
): Promise<Server> {
  await Promise.all([rm(socket, { force: true }), rm(ready, { force: true })]);
  const child: ChildProcess = spawn(peerPath(program), args, {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  child.stderr!.setEncoding('utf8').on('data', (text) => {
    said += text;
  });
  const until = Date.now() + START_MS_MAX;
  while (!existsSync(ready)) {
    if (child.exitCode !== null || Date.now() > until)
      throw new Error(`${program} ${args.join(' ')} did not start: ${said}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return {
    socket,
    uri: `nbd+unix:///?socket=${socket}`,
    async kill() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** What nbdkit's log filter has written of one kind, `Read` or `Connect` say, with its numbers. */
export async function logged(
  path: string,
  what: string,
): Promise<{ offset: number; count: number }[]> {
  const lines = (await readFile(path, 'utf8')).split('\n');
  const number = (line: string, name: string): number =>
    Number(new RegExp(` ${name}=(0x[0-9a-f]+)`).exec(line)?.[1]);
  return lines
    .filter((line) => line.includes(` ${what} `))
    .map((line) => ({ offset: number(line, 'offset'), count: number(line, 'count') }));
}
