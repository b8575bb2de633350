// Every export of the engine. README.md documents them for hosts in any language; nothing here does more than hand on.

import { arenaInit, arenaTableBytes } from './core/arena';
import { guestInit } from './core/guest';
import {
  clusterBytes,
  FORMAT_QCOW2,
  imageAt,
  imageCount,
  imageOf,
  imagesBytes,
  imagesInit,
  OVERLAY,
  overlay,
  setImageCount,
} from './core/image';
import { alarmTime, jobActive, jobBytes, jobInit, theJob } from './core/job';
import { pageCached, pagesInit, pagesTableBytes } from './core/pages';
import { completionsAt, ringBytes, ringInit, submissionCount, submissionsAt } from './core/ring';
import {
  KIND_NONE,
  KIND_REQUEST_LAST,
  taskAt,
  taskBegin,
  tasksBytes,
  tasksInit,
} from './core/task';
import { requestBytes } from './data/populate';
import { jobAbort } from './job/abort';
import { readaheadInit } from './job/readahead';
import { jobBegin, jobResume, jobSetSpeed } from './job/stream';
import {
  BLOCK_BYTES,
  IMAGES_MAX,
  PAGE_BYTES,
  PAGES_MAX,
  PAGES_MIN,
  REPORT_NUMBERS,
  REQUESTS_MAX,
  TASKS_MAX,
  TEXT_BYTES,
} from './limits';
import { backingFits, backingInit, setBackingTexts } from './overlay/backing';
import { freesBytes, freesInit } from './overlay/frees';
import { refcountsInit } from './overlay/refcounts';
import { setCopyOnRead } from './requests/read';
import { step as runStep } from './step';
import './core/trap';
import { setSparing, setTrimming, writebackBytes, writebackInit } from './overlay/writeback';
import { zeroPageInit } from './overlay/zeropage';

/** Version of this interface; a host refuses another. */
const INTERFACE_VERSION: u32 = 1;
/** The least memory: tables, cache and room for two chunks of the largest clusters are a host's to weigh; below this nothing works. */
const MEMORY_BYTES_MIN: u32 = 8 << 20;

let textAt: usize = 0;
let reportAt: usize = 0;

export function version(): u32 {
  return INTERFACE_VERSION;
}

/** Lays out `bytes` bytes of memory; called once, before all else. False if that is too little. */
export function init(bytes: f64): bool {
  if (bytes < <f64>MEMORY_BYTES_MIN) return false;
  const end = <usize>(bytes > 4294901760 ? 4294901760 : bytes);
  const pages = max(PAGES_MIN, min(PAGES_MAX, <u32>(end / 8 / PAGE_BYTES)));
  let at = align(__heap_base, 16);
  ringInit(at);
  at = align(at + ringBytes(), 16);
  const taskTable = at;
  at = align(at + tasksBytes(), 16);
  tasksInit(taskTable);
  imagesInit(at);
  at = align(at + imagesBytes(), 16);
  jobInit(at);
  at = align(at + jobBytes(), 16);
  freesInit(at);
  at = align(at + freesBytes(), 16);
  textAt = at;
  backingInit(at);
  at = align(at + TEXT_BYTES, 16);
  reportAt = at;
  at = align(at + REPORT_NUMBERS * 8, 16);
  const pageTable = at;
  at = align(at + pagesTableBytes(pages), 16);
  const arenaTable = at;
  at = align(at + arenaTableBytes(), BLOCK_BYTES);
  zeroPageInit(at);
  at += PAGE_BYTES;
  pagesInit(pageTable, at, pages);
  at += pages * PAGE_BYTES;
  writebackInit(at);
  at = align(at + writebackBytes(), BLOCK_BYTES);
  refcountsInit();
  readaheadInit(false);
  guestInit();
  if (at >= end) return false;
  arenaInit(arenaTable, at, end);
  return true;
}

export function submissions(): u32 {
  return <u32>submissionsAt();
}

export function completions(): u32 {
  return <u32>completionsAt();
}

/**
 * Tells the engine of an image's file, before it is opened; image 0 is the overlay, the others follow in the order of the chain. Where
 * the host can tell the file's holes, it is asked for them.
 */
export function setFile(image: u32, bytes: f64, tellsHoles: bool): bool {
  if (image >= IMAGES_MAX) return false;
  imageOf(image).fileSize = <u64>bytes;
  imageOf(image).tellsHoles = tellsHoles;
  setImageCount(max(imageCount(), image + 1));
  return true;
}

/** How the disk is to be used, and what its overlay's storage can do, once all its images are open. */
export function setUse(copyOnRead: bool, readAhead: bool, trims: bool, flushesDear: bool): void {
  setCopyOnRead(copyOnRead);
  readaheadInit(readAhead);
  setTrimming(trims);
  setSparing(flushesDear);
}

/** Address where texts are exchanged. */
export function text(): u32 {
  return <u32>textAt;
}

/** Says how long the name, format and identity of a base are that the host has put at `text`, one behind the other. */
export function setBacking(name: u32, format: u32, identity: u32): bool {
  return setBackingTexts(name, format, identity);
}

/** Whether the header of the overlay, which is open, has room for these texts. */
export function backingHasRoom(): bool {
  const header = pageCached(OVERLAY, 0);
  return header == 0 || backingFits(header);
}

/**
 * Reports on an image, as 64-bit floats: format, size, file size, version, cluster size, compression type, refcount bits, then as 0 or
 * 1: lazy refcounts, extended L2, corrupt, dirty; then position and length in the header page of: backing file name, backing format,
 * identity; then the number of internal snapshots, and of persistent bitmaps.
 */
export function image(index: u32): u32 {
  const i = imageOf(index);
  put(0, i.format);
  put(1, <f64>i.size);
  put(2, <f64>i.fileSize);
  put(3, i.version);
  put(4, i.format == FORMAT_QCOW2 ? <f64>clusterBytes(i) : 0);
  put(5, i.compression);
  put(6, <f64>((<u32>1) << i.refcountOrder));
  put(7, i.lazyRefcounts ? 1 : 0);
  put(8, i.extendedL2 ? 1 : 0);
  put(9, i.corrupt ? 1 : 0);
  put(10, i.dirty ? 1 : 0);
  put(11, i.backingNameAt);
  put(12, i.backingNameBytes);
  put(13, i.backingFormatAt);
  put(14, i.backingFormatBytes);
  put(15, i.identityAt);
  put(16, i.identityBytes);
  put(17, i.snapshots);
  put(18, i.bitmapCount);
  return <u32>reportAt;
}

/** Number of the image at a depth of the chain, or -1 below its end. */
export function imageAtDepth(depth: u32): i32 {
  return depth < imageCount() ? <i32>imageAt(depth).index : -1;
}

/** Address of an image's header page, for the texts that its record points to; 0 if it is not in the cache now. */
export function headerPage(index: u32): u32 {
  return <u32>pageCached(index, 0);
}

/** Bytes that one read or write may ask for. */
export function requestBytesMax(): u32 {
  return <u32>requestBytes();
}

/** Starts a request; false when as many as can be are in flight. */
export function request(kind: u32, tag: u32, offset: f64, length: f64, argument: f64): bool {
  assert(kind != KIND_NONE && kind <= KIND_REQUEST_LAST);
  let inFlight: u32 = 0;
  for (let i: u32 = 0; i < TASKS_MAX; i++) {
    const kindThere = taskAt(i).kind;
    if (kindThere != KIND_NONE && kindThere <= KIND_REQUEST_LAST) inFlight++;
  }
  if (inFlight >= REQUESTS_MAX) return false;
  const t = taskBegin(kind, false);
  if (t === null) return false;
  t.request = tag;
  t.offset = <u64>offset;
  t.length = <u64>length;
  t.argument = <u64>argument;
  return true;
}

/** Takes `completed` entries of the completion queue and goes on as far as is possible; true if it should be called again at once. */
export function step(completed: u32, now: f64): bool {
  return runStep(completed, now);
}

/** Entries in the submission queue after a step. */
export function submitted(): u32 {
  return submissionCount();
}

/** When `step` is wanted again though nothing has completed, by the clock that `step` is given; 0 for not at all. */
export function wakeAt(): f64 {
  return alarmTime();
}

/** Makes the disk's job, which a stream request then runs; 0, or the reason why there cannot be one. */
export function stream(
  offset: f64,
  length: f64,
  speed: f64,
  onError: u32,
  keepBase: bool,
  full: bool,
  bottom: u32,
): i32 {
  return jobBegin(<u64>offset, <u64>length, <u64>speed, onError, keepBase, full, bottom);
}

/** Asks the job to end; false if there is none. */
export function abort(): bool {
  return jobAbort();
}

/**
 * Reports on the job, as 64-bit floats: status, paused, aborted, error, reason, image and disk offset of the error, the host's number
 * for it, how often the job paused itself, start and end of the range, bytes remaining, speed, copies in flight.
 */
export function info(): u32 {
  const j = theJob();
  put(0, j.status);
  put(1, j.paused);
  put(2, j.aborted);
  put(3, j.error);
  put(4, j.reason);
  put(5, j.errorImage);
  put(6, <f64>j.errorOffset);
  put(7, j.detail);
  put(8, j.stops);
  put(9, <f64>j.from);
  put(10, <f64>j.to);
  put(11, <f64>j.remaining);
  put(12, <f64>j.speed);
  put(13, j.copies);
  return <u32>reportAt;
}

function put(index: u32, value: f64): void {
  assert(index < REPORT_NUMBERS);
  store<f64>(reportAt + index * 8, value);
}

export function pause(): bool {
  if (!jobActive()) return false;
  theJob().paused = 1;
  return true;
}

export function resume(): bool {
  if (!jobActive()) return false;
  jobResume();
  return true;
}

/** Bytes a second, 0 for unlimited. */
export function setSpeed(bytesPerSecond: f64): bool {
  if (!jobActive()) return false;
  jobSetSpeed(<u64>bytesPerSecond);
  return true;
}

/** Cluster size of the overlay in bytes. */
export function clusterSize(): u32 {
  return <u32>clusterBytes(overlay());
}

function align(at: usize, unit: usize): usize {
  return (at + unit - 1) & ~(unit - 1);
}
