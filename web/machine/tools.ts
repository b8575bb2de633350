/** The buttons beside a machine's serial console and screen: copies, files, keys of its own. */

import { fromClipboard, toClipboard } from '../page/clipboard.ts';
import { announce, ask, chooseFile, part } from '../page/dom.ts';
import { download, transfer } from '../page/transfer.ts';
import { fetchFile, sendFile } from './files.ts';
import type { Machine } from './machine.ts';

/** `machine` is asked at each click. */
export function wireTools(machine: () => Machine | undefined): void {
  const on = (id: string, act: (machine: Machine) => unknown): void =>
    part(id).addEventListener('click', () => {
      const found = machine();
      if (found) act(found);
    });
  on('serial-copy', ({ terminal }) => copy(terminal.chosen));
  on('serial-paste', async ({ terminal }) => {
    const text = await clipboard();
    if (text) terminal.paste(text);
    terminal.focus();
  });
  on('send-file', ({ terminal }) => chooseFile((file) => void send(terminal, file)));
  on('fetch-file', ({ terminal }) => fetch(terminal));
  on('ctrl-alt-del', (machine) => {
    machine.ctrlAltDel();
    part('screen').focus();
  });
  on('screen-paste', async (machine) => {
    const text = await clipboard();
    if (text) machine.type(text);
    part('screen').focus();
  });
  on('screen-type', () => part('screen-keys').focus());
}

async function copy(text: string): Promise<void> {
  if (await toClipboard(text)) announce('Copied.');
  else
    await ask({
      title: 'Copy',
      text: 'Copy it from here.',
      yes: 'Done',
      label: 'Text',
      name: text,
    });
}

/** What is to be pasted: some browsers let a page read it, in others the user puts it here. */
async function clipboard(): Promise<string | undefined> {
  const copied = await fromClipboard();
  if (copied !== undefined) return copied;
  const text = 'This browser does not let the page read what was copied: paste it here.';
  return ask({ title: 'Paste', text, yes: 'Paste', label: 'Text', name: '' });
}

async function send(terminal: Machine['terminal'], file: File): Promise<void> {
  const name = await ask({
    title: 'Send a file to the machine',
    text: 'It goes by the shell on the serial console, which must wait at its prompt, into the folder that the shell is in. A file of that name there is replaced.',
    yes: 'Send',
    name: file.name,
  });
  if (name) await transfer(`Sending ${name}`, (how) => sendFile(terminal, file, name, how));
  terminal.focus();
}

async function fetch(terminal: Machine['terminal']): Promise<void> {
  const path = await ask({
    title: 'Fetch a file from the machine',
    text: 'It comes by the shell on the serial console, which must wait at its prompt.',
    yes: 'Fetch',
    label: 'Path in the machine',
    name: '',
  });
  if (path)
    await transfer(`Fetching ${path}`, async (how) =>
      download(path.split('/').pop()!, await fetchFile(terminal, path, how)),
    );
  terminal.focus();
}
