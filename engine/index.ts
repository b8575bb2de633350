// Every export of the engine. README.md documents them for hosts in any language; nothing here does
// more than hand on.

import { checkedShare } from './check/check';
import { arenaInit, arenaTableBytes } from './core/arena';
import { fileOf, filesBytes, filesInit, PART_ZEROES } from './core/files';
import { guestInit } from './core/guest';
import {
  clusterBytes,
  imageAt,
  imageCount,
  imageOf,
  imagesBytes,
  imagesInit,
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
import { formatsInit } from './formats/formats';
import { overlay, Qcow2, qcow2Of } from './formats/qcow2/image';
import { jobAbort, jobBegin, jobResume, jobSetSpeed } from './job/control';
import { jobTakesRange } from './job/order';
import { readaheadInit } from './job/readahead';
import { BLOCK_BYTES, PAGE_BYTES, PAGES_MAX, PAGES_MIN, REQUESTS_MAX, TASKS_MAX } from './limits';
import { freesBytes, freesInit } from './overlay/frees';
import { packingInit } from './overlay/packing';
import { backingFits } from './overlay/places';
import { refcountsInit } from './overlay/refcounts';
import { setBackingTexts, textsInit } from './overlay/texts';
import {
  FILES_MAX,
  FORMAT_PROBE,
  FORMAT_QCOW2,
  IMAGE_BITMAPS,
  IMAGE_CLUSTER_SIZE,
  IMAGE_COMPRESSION,
  IMAGE_CORRUPT,
  IMAGE_CRYPTO_AT,
  IMAGE_DATA_FILE_AT,
  IMAGE_DATA_FILE_BYTES,
  IMAGE_DIRTY,
  IMAGE_ENCRYPTION,
  IMAGE_EXTENDED_L2,
  IMAGE_EXTERNAL_DATA,
  IMAGE_FEATURE_NAMES_AT,
  IMAGE_FILE_SIZE,
  IMAGE_FORMAT,
  IMAGE_FORMAT_AT,
  IMAGE_FORMAT_BYTES,
  IMAGE_IDENTITY_AT,
  IMAGE_IDENTITY_BYTES,
  IMAGE_LAZY_REFCOUNTS,
  IMAGE_NAME_AT,
  IMAGE_NAME_BYTES,
  IMAGE_RAW_DATA,
  IMAGE_REFCOUNT_BITS,
  IMAGE_SIZE,
  IMAGE_SNAPSHOTS,
  IMAGE_VERSION,
  IMAGES_MAX,
  INTERFACE_VERSION,
  JOB_ABORTED,
  JOB_COPIES,
  JOB_DETAIL,
  JOB_ERROR,
  JOB_ERROR_IMAGE,
  JOB_ERROR_OFFSET,
  JOB_FROM,
  JOB_KEPT,
  JOB_PAUSED,
  JOB_REASON,
  JOB_REMAINING,
  JOB_SPEED,
  JOB_STATUS,
  JOB_STOPS,
  JOB_TO,
  KIND_POPULATE,
  KIND_STREAM,
  MEMORY_BYTES_MIN,
  OVERLAY,
  REPORT_NUMBERS,
  TEXT_BYTES,
} from './protocol';
import { setCopyOnRead } from './requests/read';
import { step as runStep } from './step';
import './core/trap';
import { setSparing, setTrimming, writebacksInit } from './overlay/progress';
import { stagingBytes, stagingInit } from './overlay/staging';
import { zeroPageInit } from './overlay/zeropage';

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
  filesInit(at);
  at = align(at + filesBytes(), 16);
  formatsInit();
  jobInit(at);
  at = align(at + jobBytes(), 16);
  freesInit(at);
  at = align(at + freesBytes(), 16);
  textAt = at;
  textsInit(at);
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
  stagingInit(at);
  at = align(at + stagingBytes(), BLOCK_BYTES);
  writebacksInit();
  refcountsInit();
  packingInit();
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
 * Tells the engine of a file, before its image is opened: image 0 is the overlay, the others follow
 * in the order of the chain, and each begins in the file of its number. Where the host can tell the
 * file's holes, it is asked for them.
 */
export function setFile(file: u32, bytes: f64, tellsHoles: bool): bool {
  if (file >= <u32>FILES_MAX) return false;
  fileOf(file).size = <u64>bytes;
  fileOf(file).tellsHoles = tellsHoles;
  if (file < <u32>IMAGES_MAX) setImageCount(max(imageCount(), file + 1));
  return true;
}

/**
 * Tells what a file from IMAGES_MAX on has of the disk that an image shows: `length` bytes from
 * `start` on, which in the file begin at `at`; less than 0 for zeros, which are in no file. It is
 * opened as an image of its own, before the whole.
 */
export function setPart(file: u32, image: u32, start: f64, length: f64, at: f64): bool {
  if (file < <u32>IMAGES_MAX || file >= <u32>FILES_MAX || image >= <u32>IMAGES_MAX) return false;
  const part = fileOf(file);
  part.partOf = image;
  part.partStart = <u64>start;
  part.partBytes = <u64>length;
  part.partAt = at < 0 ? PART_ZEROES : <u64>at;
  return true;
}

/**
 * How the disk is to be used, and what its overlay's storage can do, once all its images are open.
 */
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

/**
 * Says how long the name, format and identity of a base are that the host has put at `text`, one
 * behind the other.
 */
export function setBacking(name: u32, format: u32, identity: u32): bool {
  return setBackingTexts(name, format, identity);
}

/** Whether the header of the overlay, which is open, has room for these texts. */
export function backingHasRoom(): bool {
  const header = pageCached(OVERLAY, 0);
  return header == 0 || backingFits(header);
}

/** Address of a report on an image: IMAGE_FORMAT and the following of protocol.ts. */
export function image(index: u32): u32 {
  const i = imageOf(index);
  memory.fill(reportAt, 0, REPORT_NUMBERS * 8);
  put(IMAGE_FORMAT, i.format);
  put(IMAGE_SIZE, <f64>i.size);
  put(IMAGE_FILE_SIZE, <f64>i.fileSize);
  put(IMAGE_COMPRESSION, i.compression);
  put(IMAGE_NAME_AT, i.backingNameAt);
  put(IMAGE_NAME_BYTES, i.backingNameBytes);
  put(IMAGE_FORMAT_AT, i.backingFormatAt);
  put(IMAGE_FORMAT_BYTES, i.backingFormatBytes);
  put(IMAGE_IDENTITY_AT, i.identityAt);
  put(IMAGE_IDENTITY_BYTES, i.identityBytes);
  put(IMAGE_CLUSTER_SIZE, <f64>(i.format == FORMAT_QCOW2 ? clusterBytes(i) : i.unitBytes));
  if (i.format == FORMAT_QCOW2) putQcow2(qcow2Of(i));
  // Of one that was refused as well.
  if (i.format == FORMAT_QCOW2 || i.format == FORMAT_PROBE)
    put(IMAGE_FEATURE_NAMES_AT, qcow2Of(i).featureNamesAt);
  return <u32>reportAt;
}

/** What only qcow2 images tell. */
function putQcow2(i: Qcow2): void {
  put(IMAGE_VERSION, i.version);
  put(IMAGE_REFCOUNT_BITS, <f64>((<u32>1) << i.refcountOrder));
  put(IMAGE_LAZY_REFCOUNTS, i.lazyRefcounts ? 1 : 0);
  put(IMAGE_EXTENDED_L2, i.extendedL2 ? 1 : 0);
  put(IMAGE_CORRUPT, i.corrupt ? 1 : 0);
  put(IMAGE_DIRTY, i.dirty ? 1 : 0);
  put(IMAGE_SNAPSHOTS, i.snapshots);
  put(IMAGE_BITMAPS, i.bitmapCount);
  put(IMAGE_ENCRYPTION, i.encryption);
  put(IMAGE_CRYPTO_AT, i.cryptoAt);
  put(IMAGE_EXTERNAL_DATA, i.externalData ? 1 : 0);
  put(IMAGE_RAW_DATA, i.rawData ? 1 : 0);
  put(IMAGE_DATA_FILE_AT, i.dataFileAt);
  put(IMAGE_DATA_FILE_BYTES, i.dataFileBytes);
}

/** Number of the image at a depth of the chain, or -1 below its end. */
export function imageAtDepth(depth: u32): i32 {
  return depth < imageCount() ? <i32>imageAt(depth).index : -1;
}

/**
 * Address of an image's header page, for the texts that its record points to; 0 if it is not in the
 * cache now.
 */
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
  t.isJobs = kind == KIND_STREAM;
  t.isAhead = kind == KIND_POPULATE;
  t.background = t.isAhead;
  t.request = tag;
  t.offset = <u64>offset;
  t.length = <u64>length;
  t.argument = <u64>argument;
  return true;
}

/**
 * Takes `completed` entries of the completion queue and goes on as far as is possible; true if it
 * should be called again at once.
 */
export function step(completed: u32, now: f64): bool {
  return runStep(completed, now);
}

/** Entries in the submission queue after a step. */
export function submitted(): u32 {
  return submissionCount();
}

/**
 * When `step` is wanted again though nothing has completed, by the clock that `step` is given; 0
 * for not at all.
 */
export function wakeAt(): f64 {
  return alarmTime();
}

/**
 * Makes the disk's job, which a stream request then runs; 0, or the reason why there cannot be one.
 */
export function stream(
  offset: f64,
  length: f64,
  speed: f64,
  onError: u32,
  keepBase: bool,
  full: bool,
  bottom: u32,
  keepCompressed: bool,
  ordered: bool,
): i32 {
  return jobBegin(
    <u64>offset,
    <u64>length,
    <u64>speed,
    onError,
    keepBase,
    full,
    bottom,
    keepCompressed,
    ordered,
  );
}

/**
 * Tells a job that is `ordered` which range to copy after those it was told before; a length of 0:
 * there are no more, and it goes from start to end. False when it has no room for one now.
 */
export function streamNext(offset: f64, length: f64): bool {
  return jobTakesRange(<u64>offset, <u64>length);
}

/** How far the check under way is, from 0 to 1; a repair begins anew. */
export function checked(): f64 {
  return checkedShare();
}

/** Asks the job to end; false if there is none. */
export function abort(): bool {
  return jobAbort();
}

/** Address of a report on the job: JOB_STATUS and the following of protocol.ts. */
export function info(): u32 {
  const j = theJob();
  put(JOB_STATUS, j.status);
  put(JOB_PAUSED, j.paused);
  put(JOB_ABORTED, j.aborted);
  put(JOB_ERROR, j.error);
  put(JOB_REASON, j.reason);
  put(JOB_ERROR_IMAGE, j.errorImage);
  put(JOB_ERROR_OFFSET, <f64>j.errorOffset);
  put(JOB_DETAIL, j.detail);
  put(JOB_STOPS, j.stops);
  put(JOB_FROM, <f64>j.from);
  put(JOB_TO, <f64>j.to);
  put(JOB_REMAINING, <f64>j.remaining);
  put(JOB_SPEED, <f64>j.speed);
  put(JOB_COPIES, j.copies);
  put(JOB_KEPT, <f64>j.kept);
  return <u32>reportAt;
}

function put(index: u32, value: f64): void {
  assert(index < <u32>REPORT_NUMBERS);
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
