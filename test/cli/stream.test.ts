/** `millrace stream` over storage in memory, which answers before anyone can listen. */
import { expect, it } from 'vitest';
import { stream } from '../../hosts/cli/stream.ts';
import { MillraceError } from '../../hosts/errors.ts';
import { Bench, MIB } from '../job/bench.ts';
import { platformOver } from './program.ts';

it('goes on after a pause that came before it listened', async () => {
  const bench = new Bench();
  bench.addBase(4 * MIB);
  await (await bench.create()).close();
  let failures = 0;
  bench.fails = ({ kind, file, background }) => (kind === 'read' && file === 'base.raw' && background && failures++ === 0 ? new MillraceError('EIO', 'injected') : undefined);
  const { platform, written } = platformOver(bench.runtime);
  expect(await stream(platform, 'overlay.qcow2', { onError: 'stop' })).toBe(0);
  expect(failures).toBeGreaterThan(0);
  expect(written.stderr).toBe('millrace: paused: injected; trying again in 5 s (Ctrl-C stops)\n');
}, 15_000);
