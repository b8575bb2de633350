// Whether a guest is at work on the disk: the job makes room for it then.

import { GUEST_AT_WORK_MS } from '../limits';
import { now } from './clock';

let lastRequest: f64 = -1e9;

export function guestInit(): void {
  lastRequest = -1e9;
}

/** A request of a guest goes on. */
export function noteGuest(): void {
  lastRequest = now();
}

export function guestAtWork(): bool {
  return now() - lastRequest < GUEST_AT_WORK_MS;
}
