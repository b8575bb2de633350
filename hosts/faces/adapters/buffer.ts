/** Bytes as Node's programs want them; elsewhere there is no such class. */
export function bufferOf(bytes: Uint8Array): Uint8Array {
  const { Buffer } = globalThis as {
    Buffer?: { from(buffer: ArrayBufferLike, offset: number, length: number): Uint8Array };
  };
  return Buffer?.from(bytes.buffer, bytes.byteOffset, bytes.length) ?? bytes;
}
