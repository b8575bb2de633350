/**
 * Keys that a phone's keyboard lacks, for whichever of the serial console and the screen is used.
 */
import { make, part } from '../page/dom.ts';
import type { Machine } from './machine.ts';

/** A key: what a terminal sends for it, or the end of that, and its codes on a PC's keyboard. */
interface Key {
  label: string;
  name: string;
  text?: string;
  cursor?: string;
  codes: readonly number[];
}

const KEYS: readonly Key[] = [
  { label: 'Esc', name: 'Esc', text: '\x1b', codes: [0x01, 0x81] },
  { label: 'Tab', name: 'Tab', text: '\t', codes: [0x0f, 0x8f] },
  { label: '←', name: 'Left', cursor: 'D', codes: [0xe0, 0x4b, 0xe0, 0xcb] },
  { label: '↑', name: 'Up', cursor: 'A', codes: [0xe0, 0x48, 0xe0, 0xc8] },
  { label: '↓', name: 'Down', cursor: 'B', codes: [0xe0, 0x50, 0xe0, 0xd0] },
  { label: '→', name: 'Right', cursor: 'C', codes: [0xe0, 0x4d, 0xe0, 0xcd] },
];
const CTRL_CODES = { press: [0x1d], release: [0x9d] };

/** What has the keys. */
export interface KeyTarget {
  machine: Machine;
  shown: 'serial' | 'screen';
}

/** Makes the row of keys. `target` is asked at each key. */
export function wireKeys(target: () => KeyTarget | undefined): void {
  const key = (label: string, name: string, act: (target: KeyTarget) => void): HTMLButtonElement =>
    make(
      'button',
      {
        type: 'button',
        ariaLabel: name,
        // The keyboard of a phone stays as it is.
        onpointerdown: (event) => event.preventDefault(),
        onclick: () => {
          const found = target();
          if (found) act(found);
        },
      },
      label,
    );
  const ctrl = key('Ctrl', 'Ctrl', ({ machine, shown }) => {
    const held = ctrl.ariaPressed !== 'true';
    hold(held);
    if (shown === 'screen') machine.press(held ? CTRL_CODES.press : CTRL_CODES.release);
    else machine.terminal.control = held ? () => hold(false) : undefined;
  });
  const hold = (held: boolean): void => void (ctrl.ariaPressed = String(held));
  hold(false);
  const keys = KEYS.map(({ label, name, text, cursor, codes }) =>
    key(label, name, ({ machine, shown }) => {
      if (shown === 'screen') machine.press(codes);
      else machine.terminal.type(text ?? machine.terminal.cursorKeys + cursor);
    }),
  );
  const size = key('Fit', 'Fit: tell the shell how large the terminal is', ({ machine, shown }) => {
    const { columns, rows } = machine.terminal.size;
    if (shown === 'serial') machine.terminal.type(` stty cols ${columns} rows ${rows}\r`);
  });
  part('keys').replaceChildren(...keys.slice(0, 2), ctrl, ...keys.slice(2), size);
}
