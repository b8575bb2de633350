/** The bar, on a terminal that only remembers. */
import { expect, it } from 'vitest';
import type { StreamInfo } from '../../hosts/api/job.ts';
import type { Runtime } from '../../hosts/api/runtime.ts';
import { tell } from '../../hosts/faces/cli/platform.ts';
import { ProgressBar } from '../../hosts/faces/cli/progress.ts';
import { platformOver } from './program.ts';

const MIB = 1024 * 1024;

function terminal(columns: number): {
  written: string[];
  isTTY: boolean;
  columns: number;
  write(text: string): void;
} {
  const written: string[] = [];
  return {
    written,
    isTTY: true,
    columns,
    write: (text) => {
      written.push(text);
    },
  };
}

function infoAt(done: number): StreamInfo {
  return {
    status: 1,
    offset: 0,
    length: 64 * MIB,
    remaining: 64 * MIB - done,
    speed: 0,
    paused: false,
  };
}

/** What is drawn, without the terminal's control sequences. */
function drawn(written: string[]): string[] {
  return written
    .map((text) => text.replace(/\x1b[78]|\x1b\[\??[0-9;]*[a-zA-Z]/g, ''))
    .filter((text) => text.trim() !== '');
}

it('shows bytes, rate and time left in one line', async () => {
  const output = terminal(100);
  const bar = new ProgressBar(output);
  bar.start(infoAt(16 * MIB));
  await new Promise((resolve) => setTimeout(resolve, 20));
  bar.update(infoAt(32 * MIB));
  bar.stop();
  const lines = drawn(output.written);
  expect(lines[0]).toBe(`[${'#'.repeat(10)}${'-'.repeat(30)}]  25%  16 MiB of 64 MiB`);
  expect(lines.at(-1)).toMatch(
    /^\[#{20}-{20}\] {2}50% {2}32 MiB of 64 MiB, [\d.]+ [GM]iB\/s, 0:0\d left$/,
  );
  expect(output.written.join('')).toMatch(/\x1b\[\?25h/);
});

it('never fills a line, however narrow', () => {
  for (const columns of [20, 40, 60, 80, 200]) {
    const output = terminal(columns);
    const bar = new ProgressBar(output);
    bar.start(infoAt(16 * MIB));
    bar.stop();
    for (const line of drawn(output.written)) expect(line.length).toBeLessThanOrEqual(columns);
  }
});

it('has what is told meanwhile written above itself, and nothing once it has gone', async () => {
  const output = terminal(100);
  const { platform } = platformOver({} as Runtime);
  const stderr = { ...platform, stderr: output };
  const bar = new ProgressBar(output);
  bar.start(infoAt(16 * MIB));
  await tell(stderr, 'the server brings nothing');
  const lines = drawn(output.written);
  const note = lines.indexOf('millrace: the server brings nothing\n');
  expect(note).toBeGreaterThan(0);
  expect(lines[note + 1]).toMatch(/^\[#/);
  bar.stop();
  await tell(stderr, 'done');
  expect(drawn(output.written).at(-1)).toBe('millrace: done\n');
});

it('writes notes above itself', () => {
  const output = terminal(80);
  const bar = new ProgressBar(output);
  bar.start(infoAt(16 * MIB));
  bar.note('millrace: paused');
  bar.stop();
  expect(drawn(output.written)).toEqual([
    expect.stringContaining('25%'),
    'millrace: paused\n',
    expect.stringContaining('25%'),
  ]);
});
