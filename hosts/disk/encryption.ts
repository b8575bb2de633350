/**
 * How an image is encrypted: by the header of LUKS, version 1 (its "On-Disk Format Specification"
 * 1.2.3), what `qemu-img info` tells of it. No key is read.
 */
import { IMAGE_CRYPTO_AT, IMAGE_ENCRYPTION } from '../../engine/protocol.ts';
import { MillraceError } from '../api/errors.ts';
import type { AesInfo, LuksInfo } from '../api/image.ts';
import type { Engine } from './driver/engine.ts';

/** Of the report on an image. */
const AES = 1;
/** Bytes of the header without the keys. */
const LUKS_BYTES = 592;
const MAGIC = 'LUKS\xba\xbe';
const VERSION = 1;
const SECTOR_BYTES = 512;
const SLOTS = 8;
const SLOT_BYTES = 48;
const SLOT_ACTIVE = 0x00ac71f3;

const AT_VERSION = 6;
const AT_CIPHER = 8;
const AT_MODE = 40;
const AT_HASH = 72;
const TEXT_BYTES = 32;
const AT_PAYLOAD = 104;
const AT_KEY_BYTES = 108;
const AT_KEY_ITERATIONS = 164;
const AT_UUID = 168;
const UUID_BYTES = 40;
const AT_SLOTS = 208;
/** Of a slot. */
const AT_SLOT_ITERATIONS = 4;
const AT_SLOT_KEY = 40;
const AT_SLOT_STRIPES = 44;

/**
 * How image 0 is encrypted, if it is. @throws MillraceError `ECORRUPT` where the header of LUKS
 * cannot be read.
 */
export async function encryptionOf(engine: Engine): Promise<AesInfo | LuksInfo | undefined> {
  const report = engine.imageReport(0);
  if (!report[IMAGE_ENCRYPTION]) return undefined;
  if (report[IMAGE_ENCRYPTION] === AES) return { format: 'aes' };
  const place = await bytesAt(engine, report[IMAGE_CRYPTO_AT], 8);
  const offset = Number(new DataView(place.buffer).getBigUint64(0));
  const found = luksOf(await bytesAt(engine, offset, LUKS_BYTES));
  if (found) return found;
  const message = `${engine.name(0)}: the header of its encryption is invalid (LUKS, version 1)`;
  throw new MillraceError('ECORRUPT', message, { offset });
}

/** What the file has there; behind its end there are zeros. */
async function bytesAt(
  engine: Engine,
  offset: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  const file = engine.file(0);
  const present = Math.min(length, (file?.size ?? 0) - offset);
  if (present > 0) await file!.read(offset, bytes.subarray(0, present));
  return bytes;
}

/** What a header tells; undefined for what is none of this version. */
function luksOf(header: Uint8Array<ArrayBuffer>): LuksInfo | undefined {
  const view = new DataView(header.buffer, header.byteOffset, header.length);
  if (String.fromCharCode(...header.subarray(0, MAGIC.length)) !== MAGIC) return undefined;
  if (view.getUint16(AT_VERSION) !== VERSION) return undefined;
  const text = (at: number, bytes: number): string =>
    new TextDecoder().decode(header.subarray(at, at + bytes)).split('\0')[0];
  // As in "xts-plain64", or "cbc-essiv:sha256".
  const [mode, generator = ''] = text(AT_MODE, TEXT_BYTES).split('-');
  const [ivgen, ivgenHash] = generator.split(':');
  // XTS takes two keys.
  const keyBits = view.getUint32(AT_KEY_BYTES) * (mode === 'xts' ? 4 : 8);
  return {
    format: 'luks',
    cipher: `${text(AT_CIPHER, TEXT_BYTES)}-${keyBits}`,
    mode,
    ivgen,
    ivgenHash,
    hash: text(AT_HASH, TEXT_BYTES),
    uuid: text(AT_UUID, UUID_BYTES),
    payloadOffset: view.getUint32(AT_PAYLOAD) * SECTOR_BYTES,
    masterKeyIterations: view.getUint32(AT_KEY_ITERATIONS),
    slots: Array.from({ length: SLOTS }, (_, index) => slotAt(view, AT_SLOTS + index * SLOT_BYTES)),
  };
}

function slotAt(header: DataView, at: number): LuksInfo['slots'][number] {
  const keyOffset = header.getUint32(at + AT_SLOT_KEY) * SECTOR_BYTES;
  if (header.getUint32(at) !== SLOT_ACTIVE) return { keyOffset };
  return {
    keyOffset,
    iterations: header.getUint32(at + AT_SLOT_ITERATIONS),
    stripes: header.getUint32(at + AT_SLOT_STRIPES),
  };
}
