// The metadata cache: 64 KiB pages of every image's tables, with what has changed in them noted by
// sector and by stage.
//
// A page may also hold data clusters (where clusters are smaller than a page); those are never
// looked at here, and never written back, since only sectors that were marked as changed are.
// Writing back is writeback.ts's work alone. Where the holes of a raw file are is kept in pages as
// well, at positions that no file reaches.

import { CLEAN_PAGES_MIN, PAGE_BYTES, PAGE_MASK, SECTOR_BITS } from '../limits';
import { FILES_MAX, FLAG_JOBS, HOLE_BLOCK_BITS, OP_HOLES, OP_READ, OVERLAY } from '../protocol';
import { fileOf } from './files';
import { clearDirty, EMPTY, isDirty, LOADING, Page, STAGES, setDirty, VALID } from './page';
import { ioBegin, slot } from './ring';
import { ON_PAGE, ON_SLOT, ON_WRITEBACK, Task } from './task';
import { wakePage, wakeTurns } from './wake';

/**
 * Behind every file: a byte from here on maps eight blocks of a raw file, a bit each, lowest first;
 * it is set where data may stand.
 */
const HOLES_AT: u64 = (<u64>1) << 62;
/** Places that remember the page found last of those that fall to them. */
const HINTS: u32 = 16;

/** The cache: a table of pages, and what is counted of them. */
@unmanaged
class Cache {
  pages: usize;
  pageCount: u32;
  /** Goes on with every use of a page. */
  clock: u32;
  dirtyPages: u32;
  /** Tasks whose turn it is to load pages. */
  loaders: u32;
  /** A task found no page that could be evicted: a write-back is wanted. */
  pressed: bool;
}

function cache(): Cache {
  return changetype<Cache>(memory.data(offsetof<Cache>(), 8));
}

export function pagesTableBytes(pageCount: u32): usize {
  return pageCount * offsetof<Page>();
}

export function pagesInit(table: usize, frames: usize, pageCount: u32): void {
  assert(pageCount > CLEAN_PAGES_MIN);
  assert((frames & <usize>PAGE_MASK) == 0);
  const c = cache();
  memory.fill(changetype<usize>(c), 0, offsetof<Cache>());
  memory.fill(hintAt(0, 0), 0, HINTS * sizeof<usize>());
  c.pages = table;
  c.pageCount = pageCount;
  memory.fill(table, 0, pageCount * offsetof<Page>());
  for (let i: u32 = 0; i < pageCount; i++) pageAt(i).frame = frames + i * PAGE_BYTES;
}

export function pageCount(): u32 {
  return cache().pageCount;
}

export function pageAt(index: u32): Page {
  const c = cache();
  assert(index < c.pageCount);
  return changetype<Page>(c.pages + index * offsetof<Page>());
}

export function anyDirty(): bool {
  return cache().dirtyPages != 0;
}

/** More than half of the cache is changed: time to write back before tasks must wait for it. */
export function manyDirty(): bool {
  const c = cache();
  return c.dirtyPages * 2 > c.pageCount;
}

/**
 * The address of the byte at `offset` of a file, valid until the end of its page, or 0: the task
 * then waits for the page (or for room), or has failed.
 */
export function pageGet(t: Task | null, file: u32, offset: u64): usize {
  assert(file < <u32>FILES_MAX);
  const start = offset & ~PAGE_MASK;
  const cached = find(file, start);
  if (cached !== null) {
    if (cached.state == VALID) {
      cached.used = ++cache().clock;
      return cached.frame + <usize>(offset - start);
    }
    if (t !== null) waitFor(t, changetype<usize>(cached));
    return 0;
  }
  if (!mayLoad(t)) return 0;
  const page = evict();
  if (page === null) {
    if (t !== null) waitForRoom(t);
    return 0;
  }
  return loadPage(t, page, file, start) ? page.frame + <usize>(offset - start) : 0;
}

/**
 * As pageGet, for the map of a raw image's holes: the address of the byte that tells of `offset`.
 */
export function holesGet(t: Task | null, file: u32, offset: u64): usize {
  return pageGet(t, file, HOLES_AT + (offset >> (HOLE_BLOCK_BITS + 3)));
}

/** The address of a page that is in the cache, else 0. */
export function pageCached(file: u32, start: u64): usize {
  const page = find(file, start);
  return page !== null && page.state == VALID ? page.frame : 0;
}

/**
 * As pageGet, for a table that is made anew in a page of its own: nothing is read, and the page is
 * all zeros.
 */
export function pageMake(t: Task, file: u32, offset: u64): usize {
  assert(file == OVERLAY);
  assert((offset & PAGE_MASK) == 0);
  let page = find(file, offset);
  if (page === null) page = evict();
  else if (page.state == LOADING) {
    waitFor(t, changetype<usize>(page));
    return 0;
  }
  if (page === null) {
    waitForRoom(t);
    return 0;
  }
  page.file = file;
  page.offset = offset;
  page.state = VALID;
  page.used = ++cache().clock;
  memory.fill(page.frame, 0, PAGE_BYTES);
  return page.frame;
}

/**
 * Notes that `bytes` bytes at `address`, which came from pageGet, have changed, and in which stage
 * they are to be written.
 */
export function pageChanged(address: usize, bytes: u32, stage: u32): void {
  assert(bytes > 0 && stage < STAGES);
  const page = pageOf(address);
  const wasDirty = isDirty(page);
  const first = <u32>(address - page.frame) >> SECTOR_BITS;
  const end = (<u32>(address - page.frame) + bytes - 1) >> SECTOR_BITS;
  setDirty(page, stage, first, end);
  if (!wasDirty) cache().dirtyPages++;
}

/**
 * Forgets changes to a range that is metadata no longer (a freed table), so that they are not
 * written over what comes there.
 */
export function pagesForget(file: u32, from: u64, to: u64): void {
  const c = cache();
  assert(file == OVERLAY && from <= to);
  for (let i: u32 = 0; i < c.pageCount; i++) {
    const page = pageAt(i);
    if (page.state != VALID || page.file != file) continue;
    if (page.offset >= to || page.offset + PAGE_BYTES <= from || !isDirty(page)) continue;
    const first = <u32>(max(from, page.offset) - page.offset) >> SECTOR_BITS;
    const end = <u32>(min(to, page.offset + PAGE_BYTES) - page.offset) >> SECTOR_BITS;
    for (let stage: u32 = 0; stage < STAGES; stage++) {
      for (let s = first; s < end; s++) clearDirty(page, stage, s);
    }
    if (!isDirty(page)) c.dirtyPages--;
  }
}

/** A write-back has taken these sectors into its snapshot. */
export function sectorsTaken(page: Page, stage: u32, first: u32, sectors: u32): void {
  assert(sectors > 0);
  assert(isDirty(page));
  for (let s = first; s < first + sectors; s++) clearDirty(page, stage, s);
  if (!isDirty(page)) cache().dirtyPages--;
}

/**
 * Drops what is cached of whole pages that were written past the cache: it shows what stood there
 * before. False: the task waits.
 */
export function pagesDrop(t: Task, file: u32, from: u64, to: u64): bool {
  assert((from & PAGE_MASK) == 0 && from < to);
  for (let i: u32 = 0; i < cache().pageCount; i++) {
    const page = pageAt(i);
    if (page.state == EMPTY || page.file != file || page.offset < from || page.offset >= to)
      continue;
    if (page.state == LOADING) {
      waitFor(t, changetype<usize>(page));
      return false;
    }
    assert(!isDirty(page) && page.pins == 0);
    page.state = EMPTY;
  }
  return true;
}

/** A page has been read, or could not be. */
export function pageLoaded(address: usize, error: i32, detail: u32): void {
  const page = changetype<Page>(address);
  assert(page.state == LOADING);
  if (error && page.offset >= HOLES_AT) {
    // Not known: all of it may be data.
    memory.fill(page.frame, 0xff, PAGE_BYTES);
    error = 0;
  }
  page.state = error ? EMPTY : VALID;
  wakePage(address, error, page.file, page.offset, detail);
}

/**
 * Only so many tasks load pages at once as there is room for what each looks at together: more
 * would push out what the others have just loaded, and none would get on. The others wait for their
 * turn; those that tasks in their turn wait for do not.
 */
function mayLoad(t: Task | null): bool {
  const c = cache();
  if (t !== null && (t.loads || t.serves)) return true;
  if (c.loaders >= max<u32>(1, cleanPages() / CLEAN_PAGES_MIN)) {
    if (t !== null) waitFor(t, 0);
    return false;
  }
  if (t !== null) {
    t.loads = true;
    c.loaders++;
  }
  return true;
}

/** A task has got on, or ended: it is another's turn. */
export function loadsEnded(t: Task): void {
  if (!t.loads) return;
  t.loads = false;
  cache().loaders--;
  wakeTurns();
}

function loadPage(t: Task | null, page: Page, file: u32, start: u64): bool {
  assert((start & PAGE_MASK) == 0 && page.pins == 0);
  const size = fileOf(file).size;
  const isHoles = start >= HOLES_AT;
  page.file = file;
  page.offset = start;
  page.used = ++cache().clock;
  if (start >= size && !isHoles) {
    memory.fill(page.frame, 0, PAGE_BYTES);
    page.state = VALID;
    return true;
  }
  const bytes = isHoles ? PAGE_BYTES : <u32>min<u64>(PAGE_BYTES, size - start);
  const s = isHoles
    ? ioBegin(null, OP_HOLES, file, (start - HOLES_AT) << (HOLE_BLOCK_BITS + 3), bytes, page.frame)
    : ioBegin(null, OP_READ, file, start, bytes, page.frame);
  if (s === null) {
    page.state = EMPTY;
    if (t !== null) t.waits = ON_SLOT;
    return false;
  }
  // Ahead of the copies' data, without which the job can do; but not without the tables.
  if (t === null || t.isJobs) s.flags = FLAG_JOBS;
  slot(s.tag).page = changetype<usize>(page);
  if (bytes < PAGE_BYTES) memory.fill(page.frame + bytes, 0, PAGE_BYTES - bytes);
  page.state = LOADING;
  if (t !== null) waitFor(t, changetype<usize>(page));
  return false;
}

function waitFor(t: Task, page: usize): void {
  t.page = page;
  t.waits = ON_PAGE;
}

function waitForRoom(t: Task): void {
  cache().pressed = true;
  t.page = 0;
  t.waits = ON_PAGE | ON_WRITEBACK;
}

export function pagesPressed(): bool {
  return cache().pressed;
}

export function pagesRelieved(): void {
  cache().pressed = false;
}

function find(file: u32, start: u64): Page | null {
  const hint = hintAt(file, start);
  const found = load<usize>(hint);
  if (found != 0 && holds(changetype<Page>(found), file, start)) return changetype<Page>(found);
  for (let i: u32 = 0; i < cache().pageCount; i++) {
    const page = pageAt(i);
    if (!holds(page, file, start)) continue;
    store<usize>(hint, changetype<usize>(page));
    return page;
  }
  return null;
}

function holds(page: Page, file: u32, start: u64): bool {
  return page.offset == start && page.file == file && page.state != EMPTY;
}

/** Tables of several files are looked into by turns: one page for each is remembered. */
function hintAt(file: u32, start: u64): usize {
  const place = (<u32>(start / PAGE_BYTES) + file) % HINTS;
  return memory.data(HINTS * sizeof<usize>(), 8) + place * sizeof<usize>();
}

function evict(): Page | null {
  if (cleanPages() < CLEAN_PAGES_MIN) return null;
  let oldest: Page | null = null;
  for (let i: u32 = 0; i < cache().pageCount; i++) {
    const page = pageAt(i);
    if (page.state == EMPTY) return page;
    if (page.state == LOADING || !isClean(page)) continue;
    if (oldest === null || <i32>(page.used - oldest.used) < 0) oldest = page;
  }
  return oldest;
}

/** Pages that hold nothing that has to stay. */
function cleanPages(): u32 {
  let clean: u32 = 0;
  for (let i: u32 = 0; i < cache().pageCount; i++) if (isClean(pageAt(i))) clean++;
  return clean;
}

function isClean(page: Page): bool {
  return page.state == EMPTY || !(page.pins || isDirty(page) || isHeader(page));
}

/** The overlay's header stays: a write-back needs it when nothing else can be evicted. */
function isHeader(page: Page): bool {
  return page.file == OVERLAY && page.offset == 0;
}

function pageOf(address: usize): Page {
  const index = <u32>((address - pageAt(0).frame) / PAGE_BYTES);
  assert(index < cache().pageCount);
  return pageAt(index);
}
