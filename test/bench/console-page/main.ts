/**
 * The page of the console's benchmark: boots the guest from one kind of disk, and tells how long
 * that took. All kinds have the same machine, the same page and the same serial console; only the
 * disk differs.
 */
import biosUrl from 'seabios/bios.bin?url';
import vgaBiosUrl from 'seabios/vgabios-stdvga.bin?url';
import type { V86Options } from 'v86';
import { V86 } from 'v86';
import v86Url from 'v86/build/v86.wasm?url';
import { createDisk, deleteDisk, openDisk } from '../../../hosts/browser/index.ts';
import { attachDisk } from '../../../hosts/faces/v86/index.ts';

/**
 * `memory`: the whole image in memory before the start. `first`: a new Millrace disk, with its
 * stream behind. `second`: the same disk after the page was left. `profile`: as `first`, with a
 * boot profile. `async`: v86's own reader, which asks for what the guest asks for. `chunks`: the
 * same, a MiB at a time.
 */
export type DiskKind = 'memory' | 'first' | 'second' | 'profile' | 'async' | 'chunks';

/** What is booted, and how. */
export interface Image {
  kind: DiskKind;
  url: string;
  /** Bytes. */
  size: number;
  /** The file of its boot profile. */
  profile: readonly number[];
}

export interface BootFigures {
  /** From the start of the page to the guest's prompt, less the loading of an image into memory. */
  seconds: number;
  /** The same to its first word, and to the sum of files that nobody read before. */
  firstSeconds: number;
  workSeconds: number;
  /** From the start of the page to a disk that stands alone; none where nothing streams. */
  aloneSeconds?: number;
  /** Of these, how long the guest had a read under way. */
  waitSeconds: number;
  reads: number;
}

const OVERLAY = 'bench';
const RECORDED = 'recorded';
const PROFILED = 'profiled';
const CHUNK_BYTES = 1024 * 1024;
const MEMORY_BYTES = 128 * 1024 * 1024;
const FIRST = /\S/;
const PROMPT = /guest:[^\n]*# $/;
const WORK = 'md5sum $(find /usr/bin -type f -size +60k | sort | tail -n 8) | md5sum';
const DONE = /[0-9a-f]{32} +-/;

async function bootMachine(image: Image): Promise<BootFigures> {
  const loadFrom = performance.now();
  const { hda, alone } = await diskOf(image);
  const loadMs = image.kind === 'memory' ? performance.now() - loadFrom : 0;
  const emulator = machineOf(hda);
  let [waitMs, reads, readFrom] = [0, 0, 0];
  emulator.add_listener('ide-read-start', () => (readFrom = performance.now()));
  emulator.add_listener('ide-read-end', () => {
    reads++;
    waitMs += performance.now() - readFrom;
  });
  const [first, prompt] = [said(emulator, FIRST), said(emulator, PROMPT)];
  const seconds = async (at: Promise<number>): Promise<number> => ((await at) - loadMs) / 1000;
  const figures = { firstSeconds: await seconds(first), seconds: await seconds(prompt) };
  const waited = { waitSeconds: waitMs / 1000, reads };
  const worked = said(emulator, DONE);
  emulator.serial0_send(`${WORK}\n`);
  const workSeconds = await seconds(worked);
  const aloneSeconds = alone && (await alone) / 1000;
  await emulator.stop();
  return { ...figures, ...waited, workSeconds, aloneSeconds };
}

/** Boots once from a disk of its own, and gives the boot profile. */
async function recordBoot(url: string): Promise<number[]> {
  const disk = await createDisk({ overlay: RECORDED, base: url, record: true });
  const emulator = machineOf(await attachDisk(disk));
  await said(emulator, PROMPT);
  await emulator.stop();
  const { data } = await disk.profile();
  await disk.close();
  await deleteDisk(RECORDED);
  return [...data];
}

function machineOf(hda: V86Options['hda']): V86 {
  return new V86({
    wasm_path: v86Url,
    bios: { url: biosUrl },
    vga_bios: { url: vgaBiosUrl },
    memory_size: MEMORY_BYTES,
    autostart: true,
    disable_keyboard: true,
    disable_mouse: true,
    disable_speaker: true,
    fastboot: true,
    hda,
  });
}

/** A disk of this kind; `alone` resolves with the time at which it stands alone. */
interface Attached {
  hda: V86Options['hda'];
  alone?: Promise<number>;
}

async function diskOf({ kind, url, size, profile }: Image): Promise<Attached> {
  if (kind === 'memory') return { hda: { buffer: await (await fetch(url)).arrayBuffer() } };
  if (kind === 'async') return { hda: { url, size, async: true } };
  if (kind === 'chunks') return { hda: { url, size, async: true, fixed_chunk_size: CHUNK_BYTES } };
  if (kind === 'second')
    return { hda: await attachDisk(await openDisk({ overlay: OVERLAY, resumeJob: true })) };
  const disk = await createDisk({
    overlay: kind === 'profile' ? PROFILED : OVERLAY,
    base: url,
    profile: kind === 'profile' ? new Uint8Array(profile) : 'none',
  });
  const hda = await attachDisk(disk);
  return { hda, alone: disk.stream().then(() => performance.now()) };
}

/** When it has been said, from now on. */
function said(emulator: V86, pattern: RegExp): Promise<number> {
  let output = '';
  return new Promise((resolve) =>
    emulator.add_listener('serial0-output-byte', (byte) => {
      output += String.fromCharCode(byte);
      if (pattern.test(output)) resolve(performance.now());
    }),
  );
}

declare global {
  var boot: (image: Image) => Promise<BootFigures>;
  var record: (url: string) => Promise<number[]>;
}
globalThis.record = recordBoot;
globalThis.boot = bootMachine;
