// Zero detection, 64 bytes at a time. Data clusters that are all zeros take no space in the
// overlay.

/** Whether `bytes` bytes (a multiple of 64) at `address` are all zero. */
export function isZero(address: usize, bytes: u32): bool {
  assert((bytes & 63) == 0);
  const end = address + bytes;
  for (let at = address; at < end; at += 64) {
    const a = v128.or(v128.load(at), v128.load(at, 16));
    const b = v128.or(v128.load(at, 32), v128.load(at, 48));
    if (v128.any_true(v128.or(a, b))) return false;
  }
  return true;
}
