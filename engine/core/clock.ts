// The engine's time: what the host gave with the last step, in milliseconds. Nothing else tells it
// how late it is.

let time: f64 = 0;

export function setNow(now: f64): void {
  time = now;
}

export function now(): f64 {
  return time;
}
