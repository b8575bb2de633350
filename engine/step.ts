// The step: completions in, submissions out. Everything the engine does happens here, in a
// deterministic order.

import { runCheck } from './check/check';
import { setNow } from './core/clock';
import { anyGiven, givenTaken, taskEnd } from './core/end';
import { noteGuest } from './core/guest';
import { alarmTime, setAlarm } from './core/job';
import { loadsEnded, pageLoaded } from './core/pages';
import { completion, ioEnd, ringHasRoom, ringTaken, slot, tell } from './core/ring';
import {
  AGAIN,
  anyReady,
  failOfHost,
  KIND_COPY,
  KIND_GROW,
  KIND_REQUEST_LAST,
  KIND_WRITEBACK,
  ON_IO,
  ON_JOB,
  ON_PAGE,
  ON_SLOT,
  ready,
  Task,
  takeReady,
  WAIT,
  wait,
} from './core/task';
import { wake } from './core/wake';
import { unplace } from './data/place';
import { runCopy } from './job/copy';
import { copyEnded } from './job/errors';
import { runStream } from './job/stream';
import { RUNS_PER_STEP_MAX } from './limits';
import { growEnded, runGrow } from './overlay/grow';
import { barrierFailed } from './overlay/progress';
import { runWriteback, scheduleWriteback } from './overlay/writeback';
import {
  KIND_CHECK,
  KIND_CLOSE,
  KIND_CREATE,
  KIND_DISCARD,
  KIND_FLUSH,
  KIND_MAP,
  KIND_OPEN,
  KIND_PACK,
  KIND_POPULATE,
  KIND_READ,
  KIND_REFER,
  KIND_REMAINING,
  KIND_RESIZE,
  KIND_SNAPSHOTS,
  KIND_STREAM,
  KIND_WRITE,
  KIND_ZERO,
  OK,
  OP_DISCARD,
  OP_DONE,
  OP_FLUSH,
} from './protocol';
import { runCreate } from './requests/create';
import { closeEnded, runClose, runFlush } from './requests/flush';
import { runMap } from './requests/map';
import { runOpen } from './requests/open';
import { runPack } from './requests/pack';
import { runPopulate } from './requests/populate';
import { runRead } from './requests/read';
import { runRefer } from './requests/refer';
import { runRemaining } from './requests/remaining';
import { resizeEnded, runResize } from './requests/resize';
import { runSnapshots } from './requests/snapshots';
import { runWrite } from './requests/write';
import { runDiscard, runZero } from './requests/zeroes';

/** Takes `completed` completions, runs what can run; returns whether more could be done at once. */
export function step(completed: u32, time: f64): bool {
  setNow(time);
  ringTaken();
  givenTaken();
  for (let i: u32 = 0; i < completed; i++) {
    const c = completion(i);
    complete(c.tag, c.result, c.detail);
  }
  if (completed) wake(ON_SLOT);
  if (alarmTime() && time >= alarmTime()) {
    setAlarm(0);
    wake(ON_JOB);
  }
  let runs: u32 = 0;
  while (runs < RUNS_PER_STEP_MAX && ringHasRoom()) {
    const t = takeReady();
    if (t === null) {
      scheduleWriteback();
      if (anyReady()) continue;
      // Memory that others may wait for comes free with the next step.
      return anyGiven();
    }
    runs++;
    settle(t, run(t));
  }
  return true;
}

/** An operation has ended. */
function complete(tag: u32, result: i32, detail: u32): void {
  assert(result <= 0);
  const io = slot(tag);
  const task = io.task;
  const page = io.page;
  // Space that cannot be given back is still free in the image.
  const error = io.op == OP_DISCARD ? OK : -result;
  if (io.op == OP_FLUSH && error) barrierFailed();
  if (task !== null) {
    task.pending--;
    if (error) failOfHost(task, error, io.file, io.offset, detail);
    if (task.waits & ON_IO && task.pending == 0) ready(task);
  }
  ioEnd(io);
  if (page) pageLoaded(page, error, detail);
}

function run(t: Task): i32 {
  if (t.kind == KIND_WRITEBACK) return runWriteback(t);
  if (t.kind == KIND_STREAM) return runStream(t);
  if (t.error && t.kind != KIND_READ) return WAIT;
  if (t.kind == KIND_READ || t.kind == KIND_WRITE || t.kind == KIND_PACK) noteGuest();
  if (t.kind == KIND_READ) return runRead(t);
  if (t.kind == KIND_WRITE) return runWrite(t);
  if (t.kind == KIND_COPY) return runCopy(t);
  if (t.kind == KIND_ZERO) return runZero(t);
  if (t.kind == KIND_DISCARD) return runDiscard(t);
  if (t.kind == KIND_FLUSH) return runFlush(t);
  if (t.kind == KIND_GROW) return runGrow(t);
  if (t.kind == KIND_MAP) return runMap(t);
  if (t.kind == KIND_REMAINING) return runRemaining(t);
  if (t.kind == KIND_RESIZE) return runResize(t);
  if (t.kind == KIND_CHECK) return runCheck(t);
  if (t.kind == KIND_OPEN) return runOpen(t);
  if (t.kind == KIND_CREATE) return runCreate(t);
  if (t.kind == KIND_REFER) return runRefer(t);
  if (t.kind == KIND_SNAPSHOTS) return runSnapshots(t);
  if (t.kind == KIND_POPULATE) return runPopulate(t);
  if (t.kind == KIND_PACK) return runPack(t);
  assert(t.kind == KIND_CLOSE);
  return runClose(t);
}

/** Does what follows from a run: the task waits, goes on, or has ended. */
function settle(t: Task, result: i32): void {
  if (result != WAIT || t.error || !(t.waits & ON_PAGE)) loadsEnded(t);
  if (result == AGAIN) {
    ready(t);
    return;
  }
  if (result == WAIT) {
    if (!t.error) return;
    // A failed task ends when nothing of it is in flight and what it took is noted as free.
    if (t.pending) {
      wait(t, ON_IO);
      return;
    }
    if (t.kind == KIND_STREAM || t.kind == KIND_WRITEBACK) {
      ready(t);
      return;
    }
    if (!unplace(t)) return;
  }
  finish(t);
}

function finish(t: Task): void {
  assert(t.pending == 0);
  loadsEnded(t);
  if (t.kind == KIND_RESIZE) resizeEnded(t);
  else if (t.kind == KIND_CLOSE) closeEnded(t);
  if (t.kind <= KIND_REQUEST_LAST) {
    const done = tell(OP_DONE, t.request);
    done.tag = <u32>t.error;
    done.flags = <u32>t.reason;
    done.file = t.errorImage;
    done.offset = t.error ? t.errorOffset : t.value;
    done.length = t.detail;
  } else if (t.kind == KIND_COPY) {
    copyEnded(t);
  } else if (t.kind == KIND_GROW) {
    growEnded(t);
  }
  const wasAhead = t.isAhead;
  taskEnd(t);
  // The job may have the line again.
  if (wasAhead) wake(ON_JOB);
}
