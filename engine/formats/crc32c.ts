// CRC-32C (Castagnoli), the checksum of VHDX's headers: a bit at a time, for they are few and
// short.

const POLYNOMIAL: u32 = 0x82f63b78;

/** Of `bytes` bytes at address `at`, as if the four at `hole`, its own place, were zeros. */
export function crc32c(at: usize, bytes: u32, hole: u32): u32 {
  let crc: u32 = u32.MAX_VALUE;
  for (let i: u32 = 0; i < bytes; i++) {
    if (i < hole || i >= hole + 4) crc ^= load<u8>(at + i);
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? POLYNOMIAL : 0);
  }
  return ~crc;
}
