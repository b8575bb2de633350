// The formats that images may have, in the order in which they are probed.
import { FORMAT_QCOW2, FORMAT_RAW } from '../protocol';
import { format, formatsForget } from './format';
import { isQcow2, lookupQcow2, openQcow2 } from './qcow2/qcow2';
import { isRaw, lookupRaw, openRaw } from './raw';

export function formatsInit(): void {
  formatsForget();
  format(FORMAT_QCOW2, isQcow2, openQcow2, lookupQcow2);
  format(FORMAT_RAW, isRaw, openRaw, lookupRaw);
}
