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
  { name: 'lz4 (its legacy form)', magic: '\x02\x21\x4c\x18', advice: DECOMPRESS },
  { name: 'lzip', magic: 'LZIP\x01', advice: DECOMPRESS },
  { name: 'lzop', magic: '\x89LZO\0\r\n\x1a\n', advice: DECOMPRESS },
  { name: 'lrzip', magic: 'LRZI', advice: DECOMPRESS },
  { name: 'compress (.Z)', magic: '\x1f\x9d\x90', advice: DECOMPRESS },
  { name: 'Snappy', magic: '\xff\x06\0\0sNaPpY', advice: DECOMPRESS },
  { name: 'LZFSE', magic: 'bvx2', advice: DECOMPRESS },
  { name: 'pbzx', magic: 'pbzx', advice: DECOMPRESS },
  { name: '7z', magic: '7z\xbc\xaf\x27\x1c', advice: UNPACK },
  { name: 'rar', magic: 'Rar!\x1a\x07', advice: UNPACK },
  { name: 'zip', magic: 'PK\x03\x04', advice: UNPACK },
  { name: 'zip (empty)', magic: 'PK\x05\x06', advice: DOWNLOAD },
  { name: 'zip (in several files)', magic: 'PK\x07\x08', advice: UNPACK },
  { name: 'ar (a Debian package)', magic: '!<arch>\n', advice: UNPACK },
  { name: 'cabinet', magic: 'MSCF\0\0\0\0', advice: UNPACK },
  { name: 'cpio', magic: '070701', advice: UNPACK },
  { name: 'cpio', magic: '070702', advice: UNPACK },
  { name: 'cpio', magic: '070707', advice: UNPACK },
  { name: 'RPM (a package)', magic: '\xed\xab\xee\xdb', advice: UNPACK },
  { name: 'xar', magic: 'xar!\0', advice: UNPACK },
  { name: 'ACE', magic: '**ACE**', at: 7, advice: UNPACK },
  { name: 'StuffIt', magic: 'StuffIt (c)', advice: UNPACK },
  { name: 'StuffIt', magic: 'SIT!', advice: UNPACK },
  { name: 'VMA (a Proxmox backup)', magic: 'VMA\0', advice: "unpack it first ('vma extract')" },
  { name: 'WIM', magic: 'MSWIM\0\0\0', advice: UNPACK },
  { name: 'VMDK of version 3 (vmfsSparse)', magic: 'COWD' },
  { name: 'VMDK of ESXi (seSparse)', magic: '\xbe\xba\xfe\xca\0\0\0\0' },
  { name: 'LUKS', magic: 'LUKS\xba\xbe', advice: 'decrypt it first' },
  { name: 'Bochs', magic: 'Bochs Virtual HD Image' },
  { name: 'cloop', magic: '#!/bin/sh\n#V2.0 Format\nmodprobe cloop' },
  { name: 'a script', magic: '#!/', advice: 'it may unpack to the image: run it' },
  { name: 'ASIF (a sparse image of macOS)', magic: 'shdw\0\0\0', advice: CONVERT_ON_MAC },
  { name: 'a sparse image of macOS', magic: 'sprs\0\0\0', advice: CONVERT_ON_MAC },
  { name: 'an encrypted DMG', magic: 'encrcdsa', advice: CONVERT_ON_MAC },
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
  {
    name: 'AFF (a forensic image)',
    magic: 'AFF10\r\n\0',
    advice: "convert it first ('affconvert')",
  },
  { name: 'a Partclone image', magic: 'partclone-image', advice: "restore it first ('partclone')" },
  {
    name: 'an ntfsclone image',
    magic: '\0ntfsclone-image',
    advice: "restore it first ('ntfsclone')",
  },
  {
    name: 'a Partimage image',
    magic: 'PaRtImAgE-VoLuMe',
    advice: "restore it first ('partimage')",
  },
  { name: 'cow', magic: 'OOOM\0\0\0\x02', advice: 'convert it first' },
  {
    name: 'a pointer of Git LFS',
    magic: 'version https://git-lfs.',
    advice: "fetch what it stands for ('git lfs pull', or the server's link for the raw file)",
  },
  { name: 'qcow (version 1)', magic: 'QFI\xfb\0\0\0\x01' },
  { name: 'PDF', magic: '%PDF-', advice: DOWNLOAD },
  { name: 'PNG', magic: '\x89PNG\r\n\x1a\n', advice: DOWNLOAD },
  { name: 'GIF', magic: 'GIF89a', advice: DOWNLOAD },
  { name: 'JPEG', magic: '\xff\xd8\xff', advice: DOWNLOAD },
  { name: 'a program (ELF)', magic: '\x7fELF', advice: 'it may unpack to the image: run it' },
];
const BZIP2 = /^BZh[1-9]/;
/** Of a block, and of the end, which alone makes an empty file. */
const BZIP2_BLOCKS = ['1AY&SY', '\x17rE8P\x90'];
/** LHA: the method of the first member, behind two bytes. */
const LHA = /^..-l[hz][0-9a-z]-/s;
/** The old binary form of cpio, either way round: its magic, and of the first name all is there. */
const CPIO_BINARY = /^(?:\xc7\x71|\x71\xc7).{24}[\x21-\x7e][\x20-\x7e]*\0/s;
/**
 * What a page begins with (WHATWG, "MIME Sniffing", "Identifying a resource with an unknown MIME
 * type"), and XML.
 */
const TAGS =
  '!doctype\\s+html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|\\?xml';
const MARKUP = new RegExp(`^[\\t\\n\\f\\r ]*<(?:(?:${TAGS})(?=[\\s>])|!--)`, 'i');
/** Of what is a text all through, any element is the beginning of one. */
const ELEMENT = /^\s*<[a-z]/i;
/** Of XML, what tells of a disk that is elsewhere. */
const DESCRIPTIONS: readonly [RegExp, string][] = [
  [
    /<Parallels_disk_image\b/,
    "it is the description of a Parallels disk, and no image: give the '.hds' file beside it",
  ],
  [/<(?:\w+:)?Envelope\b/, 'it is an OVF description, and no image: give the disk that it names'],
];
/**
 * Byte order marks of UTF-32 and UTF-16, or what the latter makes of the first character of a page
 * or of JSON.
 */
const UTF_32 = /^(?:\xff\xfe\0\0|\0\0\xfe\xff)/;
const UTF_16 = /^(?:\xff\xfe|\xfe\xff|[\t-\r <{[]\0|\0[\t-\r <{[])/;
/**
 * What `xz --format=lzma` writes: properties, a dictionary's size, and a size that is not known.
 */
const LZMA = /^\x5d\0\0..\xff{8}/s;
const JSON_START = /^\s*[[{]/;
/** Of an image, so much is looked at: pages may begin with white space. */
export const PROBE_BYTES: number = 64 * 1024;
/** Of a page, its beginning tells what it is. */
const TEXT_BYTES_MAX = 16 * 1024;
const SECTOR_BYTES = 512;
const SIGNATURE_AT = 510;
const TAR_SUM_AT = 148;
const TAR_SUM_BYTES = 8;

/** The trailer of a disk image of macOS (UDIF), or of a VHD, and how long it is. */
export const TRAILER_BYTES = 512;
const TRAILER_MAGIC = 'koly';
const VHD_FOOTER_MAGIC = 'conectix';

/**
 * What is wrong with taking an image of `size` bytes for raw data: `start` is its first bytes,
 * PROBE_BYTES of them or all. Undefined for nothing.
 */
export function otherFormat(start: Uint8Array, size: number): string | undefined {
  const characters = charactersOf(start.subarray(0, SECTOR_BYTES));
  const found = FORMATS.find(({ magic, at = 0 }) => characters.startsWith(magic, at));
  if (found) return unsupported(found.name, found.advice ?? CONVERT);
  if (BZIP2.test(characters) && BZIP2_BLOCKS.some((block) => characters.startsWith(block, 4)))
    return unsupported('bzip2', DECOMPRESS);
  if (LZMA.test(characters)) return unsupported('lzma', DECOMPRESS);
  if (LHA.test(characters)) return unsupported('LHA', UNPACK);
  if (CPIO_BINARY.test(characters)) return unsupported('cpio', UNPACK);
  // A disk with a boot sector may hold anything before its end.
  if (characters.startsWith('\x55\xaa', SIGNATURE_AT)) return undefined;
  if (isTar(start, characters)) return unsupported('tar', UNPACK);
  return noImage(start, size);
}

function unsupported(name: string, advice: string): string {
  return `it is ${name}, a format that is not supported: ${advice}`;
}

/** What a server answers in place of an image, or a tool writes beside one. */
function noImage(start: Uint8Array, size: number): string | undefined {
  const head = textOf(start.subarray(0, SECTOR_BYTES));
  const text = isText(head) ? textOf(start.subarray(0, TEXT_BYTES_MAX)) : head;
  if (MARKUP.test(text) || (ELEMENT.test(text) && isText(text))) {
    const described = DESCRIPTIONS.find(([root]) => root.test(text))?.[1];
    return described ?? `it is a page of HTML or XML, and no image: ${DOWNLOAD}`;
  }
  if (!isText(text)) return undefined;
  if (JSON_START.test(text)) return `it is JSON, and no image: ${DOWNLOAD}`;
  // A disk has whole sectors, and a text of more than a few words has spaces or lines; that it is
  // one to its end has to be seen.
  const mayBeText = size % SECTOR_BYTES !== 0 && size === start.length;
  if (mayBeText && (size < SECTOR_BYTES || /\s/.test(text)) && isText(textOf(start)))
    return `it is a text of ${size} bytes, and no image: ${DOWNLOAD}`;
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

/** In UTF-8 byte by byte, in UTF-16 by its characters; without a byte order mark. */
function textOf(start: Uint8Array): string {
  const characters = charactersOf(start);
  if (UTF_32.test(characters)) return characters.slice(4).replaceAll('\0', '');
  if (!UTF_16.test(characters)) return characters.replace(/^\xef\xbb\xbf/, '');
  const isBigEndian = /^(?:\xfe\xff|\0)/.test(characters);
  return new TextDecoder(isBigEndian ? 'utf-16be' : 'utf-16le').decode(start);
}

/**
 * The header's own checksum: the sum of its bytes, with spaces in the checksum's place. Nothing
 * else tells the oldest form of tar.
 */
function isTar(start: Uint8Array, text: string): boolean {
  const digits = text.slice(TAR_SUM_AT, TAR_SUM_AT + TAR_SUM_BYTES);
  if (!/^ *[0-7]+[ \0]/.test(digits)) return false;
  const noted = Number.parseInt(digits.trim(), 8);
  const sum = start
    .subarray(0, SECTOR_BYTES)
    .reduce(
      (sum, byte, at) => sum + (at >= TAR_SUM_AT && at < TAR_SUM_AT + TAR_SUM_BYTES ? 0x20 : byte),
      0,
    );
  return sum === noted;
}

/** Without control characters but tabs, and ends of lines and pages. */
function isText(text: string): boolean {
  return !/[^\t\n\f\r\x20-\x7e\x80-\uffff]/.test(text);
}
