/**
 * Whether the simulator would notice: ways to break the engine, each a small change of its sources,
 * of which every one must be found by some seed. Only copies in memory are changed. `npm run
 * simulate -- --mutations` runs them all.
 */
import { buildEngine } from './build.ts';
import { simulate } from './simulate.ts';

export interface Mutation {
  /** What the engine then does wrong. */
  name: string;
  path: string;
  /** Stands in the source exactly once. */
  from: string;
  to: string;
}

export const MUTATIONS: Mutation[] = [
  {
    name: 'no barriers between the stages of a write-back',
    path: 'engine/overlay/writeback.ts',
    from: 'if (!barrier(t)) return wait(t, ON_SLOT);\n      t.state = BARRIER;',
    to: 't.stage = runAt(t.writeRun).stage;\n      continue;',
  },
  {
    name: 'refcounts go to disk together with the tables that rely on them',
    path: 'engine/core/page.ts',
    from: 'STAGE_REFCOUNTS: u32 = 1;',
    to: 'STAGE_REFCOUNTS: u32 = 3;',
  },
  {
    name: 'L1 entries go to disk together with the new L2 tables they point to',
    path: 'engine/core/page.ts',
    from: 'STAGE_L1: u32 = 4;',
    to: 'STAGE_L1: u32 = 3;',
  },
  {
    name: 'a write is linked before its data is written',
    path: 'engine/requests/write.ts',
    from: 'if (t.pending) return wait(t, ON_IO);\n    return link(t) ? DONE : WAIT;',
    to: 'if (!link(t)) return WAIT;\n    return t.pending ? wait(t, ON_IO) : DONE;',
  },
  {
    name: 'freed clusters are taken again at once',
    path: 'engine/data/link.ts',
    from: 'const after = nextWriteback();',
    to: 'const after: u32 = 0;',
  },
  {
    name: 'freed clusters are given back to the storage while the disk still refers to them',
    path: 'engine/overlay/giveback.ts',
    from: 'entry.shared || entry.after > t.covers ||',
    to: 'entry.shared ||',
  },
  {
    name: 'what an L2 entry pointed to before is never freed',
    path: 'engine/data/link.ts',
    from: 'if (was && was != is) freeLater(was, 1, after, !(old & COPIED));',
    to: '',
  },
  {
    name: 'what a failed request took is never freed',
    path: 'engine/data/place.ts',
    from: 'freeLater(entry & ~ACTION, 1, 0);',
    to: ';',
  },
  {
    name: 'the mark of an image in use is not written',
    path: 'engine/overlay/mark.ts',
    from: 'pageChanged(header, SECTOR_BYTES, STAGE_MARK);',
    to: '',
  },
  {
    name: 'a flush writes the tables and does not flush them',
    path: 'engine/overlay/flush.ts',
    from: 'if (ioBegin(t, OP_FLUSH, OVERLAY, 0, 0, 0) === null) {\n      t.waits = ON_SLOT;\n      return false;\n    }\n    t.flushStep = FLUSH_BARRIER;',
    to: 't.flushStep = FLUSH_BARRIER;',
  },
  {
    name: 'a flush succeeds after one has failed',
    path: 'engine/overlay/progress.ts',
    from: 'writebacks().lost = true;',
    to: '',
  },
  {
    name: 'a flush does not hear of a write-back that failed',
    path: 'engine/overlay/flush.ts',
    from: 'if (<i32>(w.failedLast - t.flushBegun) > 0) {',
    to: 'if (false) {',
  },
  {
    name: 'tables that could not be written are forgotten',
    path: 'engine/overlay/staging.ts',
    from: 'if (!isFree(run.offset + at)) pageChanged(address + at, SECTOR_BYTES, run.stage);',
    to: '',
  },
  {
    name: 'the end of a write-back wakes nobody',
    path: 'engine/overlay/writeback.ts',
    from: 'w.stalled = false;\n  wake(ON_WRITEBACK);',
    to: 'w.stalled = false;',
  },
  {
    name: 'requests that overlap do not wait for one another',
    path: 'engine/core/lock.ts',
    from: 'if (o.lockHeld || <i32>(o.lockTurn - t.lockTurn) < 0) {',
    to: 'if (o.lockHeld && o.lockMode == SHARED) {',
  },
  {
    name: 'a read that begins again keeps its memory',
    path: 'engine/requests/read.ts',
    from: 'releaseMemory(t);\n  unlock(t);',
    to: 't.buffer = 0;\n  unlock(t);',
  },
  {
    name: 'new L2 entries lack the COPIED flag',
    path: 'engine/data/link.ts',
    from: 'host ? host | COPIED : zero',
    to: 'host ? host : zero',
  },
  {
    name: 'a job lets the base go while copies are on their way',
    path: 'engine/job/stream.ts',
    from: 'if (j.copies) return wait(t, ON_JOB);\n',
    to: '',
  },
  {
    name: 'a job with an order ends with it, and leaves the rest out',
    path: 'engine/job/handout.ts',
    from: 'return next == DONE ? copyFromCursor(t, j) : next;',
    to: 'return next;',
  },
  {
    name: 'a disk that grows shows what its base has there',
    path: 'engine/requests/resize.ts',
    from: 'image.l1Size ? TABLE : HIDE;',
    to: 'image.l1Size ? TABLE : SETTLE;',
  },
  {
    name: 'a disk that grows shows the rest of its last cluster',
    path: 'engine/requests/resize.ts',
    from: 'if (grows && image.size & (cluster - 1) && !zeroTail(t, image)) return WAIT;',
    to: '',
  },
  {
    name: 'autoclear bits stay where nothing has to be repaired',
    path: 'engine/check/check.ts',
    from: 'if (mends || (t.mayRepair == REPAIR_CRASH && image.autoclear)) {',
    to: 'if (mends) {',
  },
  {
    name: 'a disk that grows shows what stood behind its end',
    path: 'engine/requests/resize.ts',
    from: 'if (!forget(t, image, at)) return WAIT;',
    to: 't.hiddenTo = t.size;',
  },
  {
    name: 'a discarded cluster shows what its base has there',
    path: 'engine/requests/zeroes.ts',
    from: 'if (!linkCluster(t, image, at, 0, absent)) return WAIT;',
    to: 'if (!linkCluster(t, image, at, 0, true)) return WAIT;',
  },
  {
    name: 'a job counts what a guest populates twice',
    path: 'engine/data/link.ts',
    from: 't.isJobs);',
    to: 'false);\n  if (entry & OFFSET_MASK && !old) jobPopulated(offset, clusterBytes(image), false);',
  },
  {
    name: 'the tables of a long chain push each other out of the cache',
    path: 'engine/formats/chain.ts',
    from: 'if (t !== null && i > <u32>OVERLAY) notePassed(t, i + 1, offset, length);',
    to: '',
  },
  {
    name: 'where the host fails to tell the holes, there is no data',
    path: 'engine/core/pages.ts',
    from: 'memory.fill(page.frame, 0xff, PAGE_BYTES);',
    to: '',
  },
  {
    name: 'a hole reaches over the data behind it',
    path: 'engine/formats/raw.ts',
    from: '((<u64>(holeEnd - block)) << HOLE_BLOCK_BITS) - within',
    to: '((<u64>(holeEnd - block + 1)) << HOLE_BLOCK_BITS) - within',
  },
  {
    name: 'changed tables leave no room for those that are read',
    path: 'engine/core/pages.ts',
    from: 'if (cleanPages() < CLEAN_PAGES_MIN) return null;',
    to: '',
  },
  {
    name: 'tasks load pages all at once and push each other out',
    path: 'engine/core/pages.ts',
    from: 'if (!mayLoad(t)) return 0;',
    to: '',
  },
  {
    name: 'a job down to an image makes zeros of the front of a cluster',
    path: 'engine/job/handout.ts',
    from: 'if (j.cursor & (clusterBytes(overlay()) - 1)) return 0;',
    to: '',
  },
  {
    name: 'a job that could not let the base go forgets the holes it left out',
    path: 'engine/job/stream.ts',
    from: '|| (t.state > RECOUNT && j.holes != 0)',
    to: '',
  },
  {
    name: 'an answer is told twice',
    path: 'engine/requests/read.ts',
    from: 'noteGuestRead(t.offset, t.length, t.populateTries > 0);',
    to: 'if (t.populateTries == 1) tell(9, t.request);\n    noteGuestRead(t.offset, t.length, t.populateTries > 0);',
  },
  {
    name: 'a guest is given what stands before what it missed',
    path: 'engine/requests/read.ts',
    from: '<u32>(t.buffer + <usize>within)',
    to: '<u32>t.buffer',
  },
  {
    name: 'what the overlay has of a request that misses is not read for it',
    path: 'engine/data/classify.ts',
    from: 'if (t.wantsAll) wantRequested(t);',
    to: '',
  },
  {
    name: 'a stream that is kept is linked before it has been written',
    path: 'engine/data/populate.ts',
    from: 'if (t.pending) {\n    t.waits = ON_IO;\n    return false;\n  }\n  if (t.error || !linkKept(t)) return false;',
    to: 'if (t.error || !linkKept(t)) return false;',
  },
  {
    name: 'streams that share a cluster are counted as one',
    path: 'engine/overlay/refcounts.ts',
    from: 'for (let i: u32 = 0; i < count; i++)\n    putRefcount(part, index + i, order, getRefcount',
    to: 'for (let i: u32 = inUse; i < count; i++)\n    putRefcount(part, index + i, order, getRefcount',
  },
  {
    name: 'streams are packed over clusters that are in use',
    path: 'engine/overlay/refcounts.ts',
    from: 'refcount >= refcountMax(image) : refcount != 0)',
    to: 'refcount >= refcountMax(image) : false)',
  },
  {
    name: 'more references to a cluster are made than can be counted',
    path: 'engine/overlay/refcounts.ts',
    from: 'refcount == 0 || refcount >= refcountMax(image)',
    to: 'refcount == 0',
  },
  {
    name: 'a stream that has been written over keeps its clusters',
    path: 'engine/data/link.ts',
    from: 'freeStream(image, compressedOffset(image, old), compressedBytes(image, old), after);',
    to: '',
  },
  {
    name: 'memory that was given back is given back again',
    path: 'engine/core/memory.ts',
    from: '  t.buffer = 0;\n  t.scratch = 0;\n  t.bufferBytes = 0;',
    to: '  t.scratch = 0;',
  },
  {
    name: 'a lock that was given back wakes nobody',
    path: 'engine/core/lock.ts',
    from: '  t.lockHeld = false;\n  wake(ON_LOCK);',
    to: '  t.lockHeld = false;',
  },
  {
    name: 'what a request is given is overwritten before the host has copied it',
    path: 'engine/core/end.ts',
    from: 'if (t.buffer && t.kind <= KIND_REQUEST_LAST) {',
    to: 'if (false) {',
  },
  {
    name: 'an operation gets the slot of one in flight',
    path: 'engine/core/ring.ts',
    from: '  r.free = io.next;\n  r.inFlight++;',
    to: '  r.inFlight++;',
  },
  {
    name: 'a failed request ends while its operations are in flight',
    path: 'engine/step.ts',
    from: '    if (t.pending) {\n      wait(t, ON_IO);\n      return;\n    }\n',
    to: '',
  },
  {
    name: 'a task is read as one of another kind',
    path: 'engine/requests/zeroes.ts',
    from: 'recordOf<ZeroTask>(task, KIND_DISCARD)',
    to: 'recordOf<ZeroTask>(task, KIND_ZERO)',
  },
  {
    name: 'a page may leave the cache while its sectors are being written',
    path: 'engine/overlay/staging.ts',
    from: '    page.pins++;\n',
    to: '',
  },
  {
    name: 'a lookup goes on behind the end of an image',
    path: 'engine/formats/chain.ts',
    from: 'look(t, image, offset, min(length, image.size - offset));',
    to: 'look(t, image, offset, length);',
  },
  {
    name: 'a part of a compressed cluster is taken from another one',
    path: 'engine/data/gather.ts',
    from: 'if (t.partReady && t.partFile == extent.file && t.partFrom == extent.host) {',
    to: 'if (t.partReady) {',
  },
  {
    name: 'the job does not hear that a copy has ended',
    path: 'engine/job/errors.ts',
    from: '  theJob().copies--;\n',
    to: '',
  },
  {
    name: 'the turn to load pages is never given on',
    path: 'engine/core/pages.ts',
    from: '  cache().loaders--;\n',
    to: '',
  },
];

export interface Verdict {
  mutation: Mutation;
  /** The seed that found it, and what it said; none of them did if there is none. */
  seed?: number;
  message?: string;
}

/**
 * Breaks the engine in one way and runs seeds from 1 on until one fails.
 * @throws when the source has changed so that nothing is broken.
 */
export async function findMutation(mutation: Mutation, seeds: number): Promise<Verdict> {
  const module = await buildEngine((path, source) => {
    if (path !== mutation.path) return source;
    if (source.split(mutation.from).length !== 2)
      throw new Error(`${path} does not contain once: ${mutation.from}`);
    return source.replace(mutation.from, () => mutation.to);
  });
  for (let seed = 1; seed <= seeds; seed++) {
    const { error } = simulate(module, seed);
    if (error) return { mutation, seed, message: error.message };
  }
  return { mutation };
}
