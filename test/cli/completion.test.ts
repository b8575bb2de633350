/** Completion by the shells themselves, from what `millrace completion` prints. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { PeerName } from '../support/peer.ts';
import { peerPath } from '../support/peer.ts';
import { run } from '../support/run.ts';
import { millrace, withFolder } from './program.ts';

/** Runs a shell that has read the completion, and gives its lines. */
async function linesOf(
  shell: PeerName,
  args: readonly string[],
  script: string,
): Promise<string[]> {
  let lines: string[] = [];
  await withFolder(async (cwd) => {
    const { exitCode, stdout } = await millrace(['completion', shell], { cwd });
    expect(exitCode).toBe(0);
    await writeFile(join(cwd, 'completion'), stdout);
    const told = await run(peerPath(shell), [...args, '-c', script], { cwd });
    expect(told.stderr).toBe('');
    lines = told.stdout.trim().split('\n');
  });
  return lines;
}

describeWithPeer(['bash'], 'completion in bash', () => {
  it('has commands, options, and what options choose from', async () => {
    const complete = (...words: string[]): string =>
      `COMP_WORDS=(millrace ${words.join(' ')}); COMP_CWORD=${words.length}; _millrace; echo "\${COMPREPLY[*]}"`;
    const script = [
      'source ./completion',
      complete('co'),
      complete('check', '--repair', "''"),
      complete('create', '--base-f'),
      complete('help', 're'),
      complete('completion', 'f'),
      'complete -p millrace',
    ].join('\n');
    expect(await linesOf('bash', ['--norc'], script)).toEqual([
      'convert commit compare completion',
      'leaks all',
      '--base-format',
      'rebase resize resume',
      'fish',
      'complete -o default -F _millrace millrace',
    ]);
  });
});

describeWithPeer(['fish'], 'completion in fish', () => {
  it('has commands, options, and what options choose from', async () => {
    const script = [
      'source ./completion',
      "complete -C 'millrace co'",
      "complete -C 'millrace check --repair '",
      "complete -C 'millrace create --base-f'",
    ].join('\n');
    const words = (await linesOf('fish', ['--no-config'], script)).map(
      (line) => line.split('\t')[0],
    );
    expect(words).toEqual([
      'commit',
      'compare',
      'completion',
      'convert',
      'all',
      'leaks',
      '--base-format',
    ]);
  });
});

describeWithPeer(['zsh'], 'completion in zsh', () => {
  it('is read, and belongs to the command', async () => {
    const script = [
      'autoload -U compinit && compinit -u -d ./dump',
      'source ./completion',
      'print $_comps[millrace]',
      'whence -w _millrace',
    ].join('\n');
    expect(await linesOf('zsh', ['-f'], script)).toEqual(['_millrace', '_millrace: function']);
  });
});
