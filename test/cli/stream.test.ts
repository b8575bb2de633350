/** `millrace stream` over storage in memory, which answers before anyone can listen. */
import { expect, it } from 'vitest';
import { MillraceError } from '../../hosts/api/errors.ts';
import { stream } from '../../hosts/faces/cli/stream.ts';
import { Bench, MIB } from '../job/bench.ts';
import { platformOver } from './program.ts';

it('goes on after a pause that came before it listened', async () => {
  const bench = new Bench();
  bench.addBase(4 * MIB);
  await (await bench.create()).close();
  let failures = 0;
  bench.fails = ({ kind, file, background }) =>
    kind === 'read' && file === 'base.raw' && background && failures++ === 0
      ? new MillraceError('EIO', 'injected')
      : undefined;
  const { platform, written } = platformOver(bench.runtime);
  expect(await stream(platform, 'overlay.qcow2', { onError: 'stop' })).toBe(0);
  expect(failures).toBeGreaterThan(0);
  expect(written.stderr).toBe('millrace: paused: injected; trying again in 5 s (Ctrl-C stops)\n');
}, 15_000);

it('has given the terminal back when it is asked to stop, and may end at any moment', async () => {
  const bench = new Bench();
  bench.addBase(4 * MIB);
  await (await bench.create()).close();
  const { platform, written } = platformOver(bench.runtime);
  const handlers: ((signal: number) => void)[] = [];
  let drawn = (): void => {};
  const isDrawn = new Promise<void>((resolve) => {
    drawn = resolve;
  });
  const terminal = {
    isTTY: true,
    columns: 80,
    write(text: string) {
      written.stderr += text;
      if (text.includes('%')) drawn();
    },
  };
  const streaming = stream(
    { ...platform, stderr: terminal, onInterrupt: (handler) => (handlers.push(handler), () => {}) },
    'overlay.qcow2',
    { speed: 1 },
  );
  await isDrawn;
  expect(written.stderr).toMatch(/\x1b\[\?25l/);
  handlers[0](2);
  expect(written.stderr.slice(written.stderr.lastIndexOf('\x1b[?25l'))).toMatch(
    /\x1b\[\?25h[\s\S]*\x1b\[\?7h/,
  );
  expect(await streaming).toBe(130);
  expect(written.stderr.slice(written.stderr.lastIndexOf('\x1b[?7h'))).not.toContain('%');
});
