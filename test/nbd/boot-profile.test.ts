/**
 * A real boot: recorded over a long line, and replayed over the same. What is compared is how often
 * the machine has to wait for its base, which no busy machine changes.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { startMillrace, withFolder } from '../cli/program.ts';
import { guestPeers, makeGuest } from '../guest/guest.ts';
import { BOOT_MS_MAX, QemuMachine } from '../guest/qemu-machine.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { startNginx } from '../support/nginx.ts';
import { startSlowLinkProcess } from '../support/slow-link.ts';

const TEST_MS_MAX = 400_000;
/** The prompt ends a recording, and no pause of a busy machine. */
const HOUR = '3600s';

interface Boot {
  /** What the server said of the recording. */
  sentence: string;
  waits: number;
}

describeWithPeer(
  [...guestPeers, 'qemu-system-x86_64', 'nginx'],
  'a machine whose boot was recorded',
  () => {
    it(
      'has far less to wait for at its next boot',
      () =>
        withFolder(async (folder) => {
          const guest = await makeGuest();
          const nginx = await startNginx({ root: guest.dir });
          const link = await startSlowLinkProcess({
            target: { host: '127.0.0.1', port: nginx.port },
            roundTripMs: 50,
            bitsPerSecond: 200e6,
          });
          const base = link.url(`/${guest.file}`);
          const boot = async (name: string, profile: string): Promise<Boot> => {
            const server = startMillrace(
              [
                ...['serve', '--nbd', `unix:${name}.sock`, '--create', '--base', base],
                ...['--profile', profile, '--record', `${name}.profile`, '--record-for', HOUR],
                `vda=${name}.qcow2`,
              ],
              { cwd: folder },
            );
            await server.until('stderr', /serving until/);
            const machine = new QemuMachine(folder, `${name}.sock`);
            try {
              await machine.until(guest.prompt, BOOT_MS_MAX);
              server.child.kill('SIGINT');
              const { stderr } = await server.ended;
              const sentence = /vda: (the boot read .*)/.exec(stderr)![1];
              return {
                sentence,
                waits: Number(/waited for its base (\d+) times/.exec(sentence)![1]),
              };
            } finally {
              machine.child.kill('SIGKILL');
              server.child.kill('SIGKILL');
            }
          };
          try {
            const first = await boot('first', 'none');
            const second = await boot('second', 'first.profile');
            console.info(`without: ${first.sentence}\nwith: ${second.sentence}`);
            expect(first.waits).toBeGreaterThan(40);
            expect(second.waits).toBeLessThan(first.waits / 4);
            // Of some 15 MB.
            expect((await stat(join(folder, 'first.profile'))).size).toBeLessThan(20 * 1024);
          } finally {
            await link.stop();
            await nginx.stop();
          }
        }),
      TEST_MS_MAX,
    );
  },
);
