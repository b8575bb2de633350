/** The events of disks and domains, typed: a name that does not exist is no program. */
import type { StreamInfo } from './job.ts';

/**
 * Events of a disk: `progress` (at most ten a second), `completed`, `failed`, `paused`, `resumed`,
 * each a CustomEvent whose `detail` is the job's StreamInfo.
 */
export type DiskEvent = 'progress' | 'completed' | 'failed' | 'paused' | 'resumed';

/** A function, or an object with one, that an event is handed to. */
export type Listener<Event> = ((event: Event) => void) | { handleEvent(event: Event): void };

/** As `addEventListener` takes it. */
export interface ListenerOptions {
  /** Called before listeners without it. */
  capture?: boolean;
  /** Called once at most. */
  once?: boolean;
  /** Takes the listener away. */
  signal?: AbortSignal;
}

/** An EventTarget whose events are those of jobs, with what they tell. */
export interface JobTarget<Detail> extends EventTarget {
  /** As of every EventTarget. */
  addEventListener(
    type: DiskEvent,
    listener: Listener<CustomEvent<Detail>> | null,
    options?: boolean | ListenerOptions,
  ): void;
  /** As of every EventTarget. */
  removeEventListener(
    type: DiskEvent,
    listener: Listener<CustomEvent<Detail>> | null,
    options?: boolean | { capture?: boolean },
  ): void;
}

/** The names of a disk's events, for who hands on all of them. */
export const DISK_EVENTS: readonly DiskEvent[] = [
  'progress',
  'completed',
  'failed',
  'paused',
  'resumed',
];

/** What disks extend. */
export const DiskTarget: new () => JobTarget<StreamInfo> = EventTarget;
