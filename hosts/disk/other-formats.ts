/**
 * Formats that are neither raw nor qcow2, by their first bytes. An image whose format is not given
 * and that begins like one of these is refused by its name: as raw data it would be a disk of the
 * container's bytes, without a word.
 */

interface OtherFormat {
  name: string;
  /** What its file begins with, or has at `at`. */
  magic: string;
  at?: number;
  /** What to do with it; default CONVERT. */
  advice?: string;
}

const CONVERT = "convert it first ('qemu-img convert')";
const CONVERT_ON_MAC = "convert it to raw on macOS first ('hdiutil convert')";
const DECOMPRESS = 'decompress it first';
const UNPACK = 'unpack it first';
const DOWNLOAD = 'it may be what a server answered in place of the image: download that again';

/** Characters are bytes. */
const FORMATS: readonly OtherFormat[] = [
  { name: 'xz', magic: '\xfd7zXZ\0', advice: DECOMPRESS },
  { name: 'gzip', magic: '\x1f\x8b\x08', advice: DECOMPRESS },
  { name: 'zstd', magic: '\x28\xb5\x2f\xfd', advice: DECOMPRESS },
  { name: 'lz4', magic: '\x04\x22\x4d\x18', advice: DECOMPRESS },
  { name: 'lzip', magic: 'LZIP\x01', advice: DECOMPRESS },
  { name: 'lzop', magic: '\x89LZO\0\r\n\x1a\n', advice: DECOMPRESS },
  { name: 'compress (.Z)', magic: '\x1f\x9d\x90', advice: DECOMPRESS },
  { name: '7z', magic: '7z\xbc\xaf\x27\x1c', advice: UNPACK },
  { name: 'rar', magic: 'Rar!\x1a\x07', advice: UNPACK },
  { name: 'zip', magic: 'PK\x03\x04', advice: UNPACK },
  { name: 'ar (a Debian package)', magic: '!<arch>\n', advice: UNPACK },
  { name: 'cabinet', magic: 'MSCF\0\0\0\0', advice: UNPACK },
  { name: 'WIM', magic: 'MSWIM\0\0\0', advice: UNPACK },
  { name: 'VMDK of version 3 (vmfsSparse)', magic: 'COWD' },
  { name: 'LUKS', magic: 'LUKS\xba\xbe', advice: 'decrypt it first' },
  { name: 'Bochs', magic: 'Bochs Virtual HD Image' },
  { name: 'cloop', magic: '#!/bin/sh\n#V2.0 Format\nmodprobe cloop' },
  { name: 'a script', magic: '#!/', advice: 'it may unpack to the image: run it' },
  { name: 'ASIF (a sparse image of macOS)', magic: 'shdw\0\0\0', advice: CONVERT_ON_MAC },
  { name: 'a sparse image of macOS', magic: 'sprs\0\0\0', advice: CONVERT_ON_MAC },
  {
    name: 'an Android sparse image',
    magic: '\x3a\xff\x26\xed\x01\0',
    advice: "convert it first ('simg2img')",
  },
  {
    name: 'EWF (a forensic image)',
    magic: 'EVF\t\r\n\xff\0',
    advice: "convert it first ('ewfexport')",
  },
  { name: 'cow', magic: 'OOOM\0\0\0\x02', advice: 'convert it first' },
  {
    name: 'a pointer of Git LFS',
    magic: 'version https://git-lfs.',
    advice: "fetch what it stands for ('git lfs pull', or the server's link for the raw file)",
  },
  { name: 'qcow (version 1)', magic: 'QFI\xfb\0\0\0\x01' },
];
const BZIP2 = /^BZh[1-9]/;
/** Of a block, and of the end, which alone makes an empty file. */
const BZIP2_BLOCKS = ['1AY&SY', '\x17rE8P\x90'];
const HTML = /^(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body|\?xml)\b/i;
/**
 * What `xz --format=lzma` writes: properties, a dictionary's size, and a size that is not known.
 */
const LZMA = /^\x5d\0\0..\xff{8}/s;
const JSON_START = /^(\xef\xbb\xbf)?\s*[[{]/;
/** Whatever is looked at stands in so many bytes. */
export const PROBE_BYTES = 512;
const SIGNATURE_AT = 510;
const TAR_SUM_AT = 148;
const TAR_SUM_BYTES = 8;

/** The trailer of a disk image of macOS (UDIF), or of a VHD, and how long it is. */
export const TRAILER_BYTES = 512;
const TRAILER_MAGIC = 'koly';
const VHD_FOOTER_MAGIC = 'conectix';

/**
 * What is wrong with taking an image for raw data: `start` is its first bytes, PROBE_BYTES of them
 * or all. Undefined for nothing.
 */
export function otherFormat(start: Uint8Array): string | undefined {
  const text = charactersOf(start.subarray(0, PROBE_BYTES));
  const found = FORMATS.find(({ magic, at = 0 }) => text.startsWith(magic, at));
  if (found)
    return `it is ${found.name}, a format that is not supported: ${found.advice ?? CONVERT}`;
  if (BZIP2.test(text) && BZIP2_BLOCKS.some((block) => text.startsWith(block, 4)))
    return `it is bzip2, a format that is not supported: ${DECOMPRESS}`;
  if (LZMA.test(text)) return `it is lzma, a format that is not supported: ${DECOMPRESS}`;
  // A disk with a boot sector may hold anything before its end.
  if (text.startsWith('\x55\xaa', SIGNATURE_AT)) return undefined;
  if (isTar(start, text)) return `it is tar, a format that is not supported: ${UNPACK}`;
  if (HTML.test(text)) return `it is a page of HTML or XML, and no image: ${DOWNLOAD}`;
  if (JSON_START.test(text) && isText(text)) return `it is JSON, and no image: ${DOWNLOAD}`;
  // A disk has whole sectors; what a server says in place of an image is shorter than one.
  if (start.length > 0 && start.length < PROBE_BYTES && isText(text))
    return `it is a text of ${start.length} bytes, and no image: ${DOWNLOAD}`;
  return undefined;
}

/** As `otherFormat`, of an image's last bytes: only its end tells a DMG. */
export function otherTrailer(end: Uint8Array): string | undefined {
  return charactersOf(end).startsWith(TRAILER_MAGIC)
    ? `it is DMG, a format that is not supported: ${CONVERT}`
    : undefined;
}

/** Whether an image's last bytes are the footer of a VHD. */
export function isVhdFooter(end: Uint8Array): boolean {
  return charactersOf(end).startsWith(VHD_FOOTER_MAGIC);
}

function charactersOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join('');
}

/** The header's own checksum: the sum of its bytes, with spaces in the checksum's place. */
function isTar(start: Uint8Array, text: string): boolean {
  if (!text.startsWith('ustar', 257)) return false;
  const noted = Number.parseInt(text.slice(TAR_SUM_AT, TAR_SUM_AT + TAR_SUM_BYTES).trim(), 8);
  const sum = start
    .subarray(0, PROBE_BYTES)
    .reduce(
      (sum, byte, at) => sum + (at >= TAR_SUM_AT && at < TAR_SUM_AT + TAR_SUM_BYTES ? 0x20 : byte),
      0,
    );
  return sum === noted;
}

/** Without control characters but tabs and ends of lines. */
function isText(text: string): boolean {
  return !/\p{Cc}/u.test(text.replace(/[\t\r\n\x80-\xff]/g, ''));
}
