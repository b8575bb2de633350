// Numbers as they stand in files: most formats write them big-endian, others little-endian, as
// WebAssembly itself does.

export function be16(at: usize): u32 {
  return bswap<u16>(load<u16>(at));
}

export function be32(at: usize): u32 {
  return bswap<u32>(load<u32>(at));
}

export function be64(at: usize): u64 {
  return bswap<u64>(load<u64>(at));
}

export function putBe32(at: usize, value: u32): void {
  store<u32>(at, bswap<u32>(value));
}

export function putBe64(at: usize, value: u64): void {
  store<u64>(at, bswap<u64>(value));
}

export function le16(at: usize): u32 {
  return load<u16>(at);
}

export function le32(at: usize): u32 {
  return load<u32>(at);
}

export function le64(at: usize): u64 {
  return load<u64>(at);
}
