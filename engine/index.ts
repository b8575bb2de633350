// Every export of the engine. README.md documents them for hosts in any language; nothing here does
// more than hand on.

import { checkedShare } from './check/check';
import { fileOf, PART_ZEROES } from './core/files';
import { clusterBytes, imageAt, imageCount, setImageCount } from './core/image';
import { alarmTime, jobActive, theJob } from './core/job';
import { pageCached } from './core/pages';
import { completionsAt, submissionCount, submissionsAt } from './core/ring';
import { KIND_NONE, KIND_REQUEST_LAST, taskAt, taskBegin } from './core/task';
import { requestBytes } from './data/chunk';
import { overlay } from './formats/qcow2/image';
import { jobAbort, jobBegin, jobResume, jobSetSpeed } from './job/control';
import { jobTakesRange } from './job/order';
import { readaheadInit } from './job/readahead';
import { layOut } from './layout';
import { REQUESTS_MAX, TASKS_MAX } from './limits';
import { backingFits } from './overlay/places';
import { setSparing, setTrimming } from './overlay/progress';
import { backingTexts, setBackingTexts } from './overlay/texts';
import {
  FILES_MAX,
  IMAGES_MAX,
  INTERFACE_VERSION,
  KIND_POPULATE,
  KIND_STREAM,
  OVERLAY,
} from './protocol';
import { imageReport, jobReport } from './reports';
import { setCopyOnRead } from './requests/read';
import { step as runStep } from './step';
import './core/trap';

export function version(): u32 {
  return INTERFACE_VERSION;
}

/** Lays out `bytes` bytes of memory; called once, before all else. False if that is too little. */
export function init(bytes: f64): bool {
  return layOut(bytes);
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
  return <u32>backingTexts().at;
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
  return <u32>imageReport(index);
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
  return <u32>jobReport();
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
