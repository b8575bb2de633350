/**
 * Images that are neither raw nor qcow2 are refused by name wherever a format is told by the first
 * bytes.
 */
import { deflateRawSync, gzipSync } from 'node:zlib';
import { expect, it } from 'vitest';
import { MemoryRuntime } from '../support/memory-runtime.ts';

const BYTES = 4096;

function padded(...parts: (string | number[])[]): Uint8Array {
  const start = Buffer.concat(
    parts.map((part) =>
      typeof part === 'string' ? Buffer.from(part, 'latin1') : Buffer.from(part),
    ),
  );
  return new Uint8Array(Buffer.concat([start, deflateRawSync(start)], BYTES));
}

function tar(): Uint8Array {
  const header = Buffer.alloc(512);
  header.write('disk.raw\0');
  header.write('0000644\0', 100);
  header.write('        ', 148);
  header.write('0', 156);
  header.write('ustar\x0000', 257);
  const sum = header.reduce((sum, byte) => sum + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return new Uint8Array(Buffer.concat([header], BYTES));
}

/** Its oldest form has no magic, but a checksum. */
function oldTar(): Uint8Array {
  const bytes = tar();
  bytes.fill(0, 257, 265);
  bytes.fill(0x20, 148, 156);
  const sum = bytes.reduce((sum, byte) => sum + byte, 0);
  bytes.set(Buffer.from(`${sum.toString(8).padStart(6, '0')}\0 `), 148);
  return bytes;
}

const utf16 = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'utf16le'));

function dmg(): Uint8Array {
  const bytes = Buffer.alloc(BYTES, 7);
  bytes.write('koly', BYTES - 512);
  return new Uint8Array(bytes);
}

const OTHERS: [name: string, bytes: Uint8Array, told: RegExp][] = [
  ['a.xz', padded('\xfd7zXZ\0'), /it is xz, a format.*decompress/],
  ['a.gz', new Uint8Array(gzipSync(Buffer.alloc(BYTES, 1))), /it is gzip, a format.*decompress/],
  ['a.bz2', padded('BZh91AY&SY'), /it is bzip2, a format.*decompress/],
  ['a.zst', padded('\x28\xb5\x2f\xfd'), /it is zstd, a format.*decompress/],
  ['a.lz4', padded('\x04\x22\x4d\x18'), /it is lz4, a format.*decompress/],
  ['a.zip', padded('PK\x03\x04'), /it is zip, a format.*unpack/],
  ['a.tar', tar(), /it is tar, a format.*unpack/],
  ['a.html', padded('\n <!DOCTYPE html><html>'), /page of HTML/],
  ['short.html', new TextEncoder().encode('<html>Sign in</html>'), /page of HTML/],
  ['wide.html', utf16('\ufeff<!DOCTYPE html><html>Sign in</html>'), /page of HTML/],
  ['bare.html', utf16('<html>Sign in</html>'), /page of HTML/],
  [
    'wider.html',
    new Uint8Array(utf16('\ufeff<html></html>').map((_, i, all) => all[i ^ 1])),
    /of HTML/,
  ],
  ['late.html', new TextEncoder().encode(`${'\n'.repeat(5000)}<html></html>`), /page of HTML/],
  ['comment.html', new TextEncoder().encode('<!-- 1 --><html></html>'), /page of HTML/],
  ['snippet.html', new TextEncoder().encode('<h1>Not found</h1>'), /page of HTML/],
  ['error.html', new TextEncoder().encode(`<Error>none</Error>${' '.repeat(600)}`), /of HTML/],
  [
    'widest.html',
    new Uint8Array(
      [...'\ufeff<html>x</html>'].flatMap((c) => [
        c.charCodeAt(0) & 255,
        c.charCodeAt(0) >> 8,
        0,
        0,
      ]),
    ),
    /page of HTML/,
  ],
  ['string.txt', new TextEncoder().encode(`"not found"${' '.repeat(600)}`), /a text of 611 bytes/],
  ['error.xml', new TextEncoder().encode('<?xml version="1.0"?><Error/>'), /HTML or XML/],
  [
    'DiskDescriptor.xml',
    new TextEncoder().encode("<?xml version='1.0'?>\n<Parallels_disk_image Version='1.0'>"),
    /a Parallels disk.*'\.hds'/,
  ],
  ['a.ovf', new TextEncoder().encode('<?xml version="1.0"?>\n<Envelope>'), /an OVF description/],
  ['wide.json', utf16('\ufeff{"error": 1}'), /JSON.*no image/],
  ['log.txt', new TextEncoder().encode('not found\n'.repeat(70)), /a text of 700 bytes/],
  ['large.txt', new TextEncoder().encode('not found\n'.repeat(6000)), /a text of 60000 bytes/],
  ['wide.txt', utf16(`\ufeff${'not found\n'.repeat(70)}`), /a text of 1402 bytes/],
  ['old.tar', oldTar(), /it is tar, a format.*unpack/],
  ['a.cpio', padded('070701000002'), /it is cpio, a format.*unpack/],
  [
    'binary.cpio',
    padded([0xc7, 0x71], Array<number>(24).fill(1), 'disk.raw\0'),
    /it is cpio, a format.*unpack/,
  ],
  ['a.rpm', padded('\xed\xab\xee\xdb\x03'), /it is RPM .*unpack/],
  ['a.vma', padded('VMA\0\0\0\0\x01'), /it is VMA .a Proxmox backup., a format.*vma extract/],
  ['a.xar', padded('xar!\0\x1c\0\x01'), /it is xar, a format.*unpack/],
  ['a.lha', padded('\x22\x01-lh5-'), /it is LHA, a format.*unpack/],
  ['old.lz4', padded('\x02\x21\x4c\x18'), /it is lz4 .*decompress/],
  ['a.lrz', padded('LRZI\0\x06'), /it is lrzip, a format.*decompress/],
  ['a.pdf', padded('%PDF-1.7\n'), /it is PDF, a format.*download/],
  ['empty.zip', padded('PK\x05\x06'), /it is zip \(empty\)/],
  ['se.vmdk', padded('\xbe\xba\xfe\xca\0\0\0\0'), /it is VMDK of ESXi/],
  ['secret.dmg', padded('encrcdsa'), /it is an encrypted DMG.*hdiutil/],
  ['disk.pcl', padded('partclone-image'), /it is a Partclone image.*restore/],
  ['a.json', new TextEncoder().encode('{"error": "not found"}'), /JSON.*no image/],
  ['a.vmdk', padded('COWD'), /it is VMDK of version 3 \(vmfsSparse\), a format/],
  ['a.bochs', padded('Bochs Virtual HD Image\0'), /it is Bochs, a format/],
  ['a.cloop', padded('#!/bin/sh\n#V2.0 Format\nmodprobe cloop'), /it is cloop, a format/],
  ['a.lz', padded('LZIP\x01'), /it is lzip, a format.*decompress/],
  ['a.lzo', padded('\x89LZO\0\r\n\x1a\n'), /it is lzop, a format.*decompress/],
  [
    'a.lzma',
    padded('\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff'),
    /it is lzma, a format.*decompress/,
  ],
  ['a.Z', padded('\x1f\x9d\x90'), /it is compress \(\.Z\), a format.*decompress/],
  ['a.deb', padded('!<arch>\ndebian-binary'), /it is ar .*unpack/],
  ['a.cab', padded('MSCF\0\0\0\0'), /it is cabinet, a format.*unpack/],
  ['a.wim', padded('MSWIM\0\0\0'), /it is WIM, a format.*unpack/],
  ['a.run', padded('#!/bin/sh\nexit 0\n'), /it is a script, a format.*run it/],
  ['a.asif', padded('shdw\0\0\0\x01'), /it is ASIF .*hdiutil/],
  ['a.sparseimage', padded('sprs\0\0\0\x03'), /it is a sparse image of macOS.*hdiutil/],
  ['a.simg', padded('\x3a\xff\x26\xed\x01\0\0\0'), /it is an Android sparse image.*simg2img/],
  ['a.E01', padded('EVF\t\r\n\xff\0'), /it is EWF .*ewfexport/],
  ['a.cow', padded('OOOM\0\0\0\x02'), /it is cow, a format/],
  [
    'pointer',
    new TextEncoder().encode('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n'),
    /it is a pointer of Git LFS.*git lfs pull/,
  ],
  [
    'answer',
    new TextEncoder().encode('404 page not found\n'),
    /it is a text of 19 bytes, and no image/,
  ],
  ['a.dmg', dmg(), /it is DMG, a format/],
  ['renamed.img', dmg(), /it is DMG, a format/],
];

it.each(OTHERS)(
  '%s is refused by its name, and taken as raw when that is said',
  async (name, bytes, told) => {
    const runtime = new MemoryRuntime();
    runtime.add(name, bytes);
    const refused = { code: 'EUNSUPPORTED', message: expect.stringMatching(told) };
    const overlay = 'new.qcow2';
    await expect(runtime.create({ overlay, base: name })).rejects.toMatchObject(refused);
    expect(runtime.files.has(overlay)).toBe(false);
    await expect(runtime.open({ overlay: name, readOnly: true })).rejects.toMatchObject(refused);
    const raw = await runtime.create({ overlay, base: name, baseFormat: 'raw' });
    expect((await raw.read(0, 16)).slice(0, 16)).toEqual(bytes.slice(0, 16));
    await raw.close();
    // What is recorded as raw is raw.
    await (await runtime.open({ overlay })).close();
  },
);

it('a disk with a boot sector is a disk, whatever else stands in it; so is one of text', async () => {
  for (const start of ['<html>', '{"a": 1}']) {
    const bytes = padded(start);
    bytes.set([0x55, 0xaa], 510);
    const runtime = new MemoryRuntime();
    runtime.add('disk.raw', bytes);
    await (await runtime.create({ overlay: 'new.qcow2', base: 'disk.raw' })).close();
  }
  for (const bytes of [
    Buffer.alloc(700, 'a'),
    Buffer.alloc(1024, 'a line\n'),
    Buffer.alloc(70_000, 'a line\n'),
  ]) {
    const runtime = new MemoryRuntime();
    runtime.add('disk.raw', new Uint8Array(bytes));
    await (await runtime.create({ overlay: 'new.qcow2', base: 'disk.raw' })).close();
  }
  for (const start of ['plain text\n', '{\0', '\x1f\x8b\0', 'PK', 'BZh9 is a name', '<a', '']) {
    const runtime = new MemoryRuntime();
    runtime.add('disk.raw', padded(start));
    await (await runtime.create({ overlay: 'new.qcow2', base: 'disk.raw' })).close();
  }
});
