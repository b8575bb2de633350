/**
 * What an image that is refused for a feature calls it: its header has a table of names (QEMU's
 * docs/interop/qcow2.txt).
 */

/** Where the incompatible features stand in the header; those of the lowest bits are known. */
const AT_INCOMPATIBLE = 72;
const KNOWN_BITS = 5;
const BITS = 64;
/** An entry of the table: type of the feature (0 for incompatible), bit, name. */
const ENTRY_BYTES = 48;
const NAME_AT = 2;

/**
 * The unknown incompatible features of an image by its first bytes; its table of names begins at
 * `namesAt`, 0 for none.
 */
export function unknownFeatures(header: Uint8Array, namesAt: number): string[] {
  if (header.length < AT_INCOMPATIBLE + 8) return [];
  const view = new DataView(header.buffer, header.byteOffset, header.length);
  const bits = view.getBigUint64(AT_INCOMPATIBLE);
  const unknown: string[] = [];
  for (let bit = KNOWN_BITS; bit < BITS; bit++)
    if ((bits >> BigInt(bit)) & 1n) unknown.push(nameOf(bit, view, namesAt) ?? `bit ${bit}`);
  return unknown;
}

function nameOf(wanted: number, header: DataView, namesAt: number): string | undefined {
  const end = namesAt ? Math.min(namesAt + header.getUint32(namesAt - 4), header.byteLength) : 0;
  for (let at = namesAt; at + ENTRY_BYTES <= end; at += ENTRY_BYTES) {
    if (header.getUint8(at) !== 0 || header.getUint8(at + 1) !== wanted) continue;
    const bytes = new Uint8Array(header.buffer, header.byteOffset + at, ENTRY_BYTES);
    const [name] = new TextDecoder().decode(bytes.subarray(NAME_AT)).split('\0');
    return name ? `'${name.replace(/\p{Cc}/gu, '?')}'` : undefined;
  }
  return undefined;
}
