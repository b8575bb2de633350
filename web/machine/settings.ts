/** What the user has chosen for all machines. */
import { remember, remembered } from '../page/storage.ts';

const SPOKEN = 'millrace/spoken';
const SPLIT = 'millrace/split';

/** Whether the user has a screen reader: a browser does not tell. */
export function isSpoken(): boolean {
  return remembered(SPOKEN) !== undefined;
}

export function noteSpoken(spoken: boolean): void {
  remember(SPOKEN, spoken ? 'yes' : undefined);
}

/** Which part of the width the serial console has, in per cent, if the user has chosen. */
export function split(): number | undefined {
  return Number(remembered(SPLIT)) || undefined;
}

export function noteSplit(percent: number | undefined): void {
  remember(SPLIT, percent?.toString());
}
