/**
 * A domain: the disks of one virtual machine under their aliases (`vda`, `vdb`), with the three
 * calls by device.
 */

import type { Disk } from '../api/disk.ts';
import type { JobTarget } from '../api/disk-events.ts';
import { DISK_EVENTS } from '../api/disk-events.ts';
import { MillraceError } from '../api/errors.ts';
import type { StreamInfo, StreamOptions } from '../api/job.ts';
import { JobStatus } from '../api/job.ts';
import { DOMAIN_STREAM_OPTIONS, mustKnowOptions } from '../api/options.ts';
import { closeAll } from './close-all.ts';
import { closeWhenDisposed } from './disposed.ts';

/** Detail of a domain's events: the disk's alias and its job's info. */
export interface DomainEventDetail extends StreamInfo {
  /** The alias of the disk. */
  device: string;
}

/** What a domain extends: EventTarget, with the types of its events. */
export const DomainTarget: new () => JobTarget<DomainEventDetail> = EventTarget;

/** A disk of the domain. */
interface Member {
  disk: Disk;
  detach: () => void;
  /** While a job runs: the speed that it may have of its own, 0 for any. */
  job?: { speed: number };
}

/**
 * ```ts
 * const vm = new Domain();
 * vm.attach('vda', disk);
 * await vm.stream('vda', 0, 0, { nonblock: true });
 * await vm.info('vda');   // { status: 1, remaining: 104857600, … }
 * ```
 * Its events are those of its disks, each a CustomEvent whose `detail` also names the `device`.
 */
export class Domain extends DomainTarget {
  static {
    closeWhenDisposed(Domain);
  }

  /** As `close`, at the end of an `await using`. */
  declare [Symbol.asyncDispose]: () => Promise<void>;

  readonly #disks = new Map<string, Member>();
  #speed = 0;

  /** Gives a disk its alias. @throws MillraceError `EEXIST` when the alias is taken. */
  attach(device: string, disk: Disk): void {
    if (this.#disks.has(device))
      throw new MillraceError('EEXIST', `the domain has a disk '${device}' already`);
    const forward = (event: CustomEvent<StreamInfo>): void => {
      const detail: DomainEventDetail = { device, ...event.detail };
      this.dispatchEvent(new CustomEvent(event.type, { detail }));
      if (event.type === 'completed' || event.type === 'failed') member.job = undefined;
      // A job may have been started at the disk itself: its progress is the first that is heard of
      // it.
      else if (event.type === 'progress' && member.job) return;
      void this.#share();
    };
    for (const type of DISK_EVENTS) disk.addEventListener(type, forward);
    const detach = (): void => {
      for (const type of DISK_EVENTS) disk.removeEventListener(type, forward);
    };
    const member: Member = { disk, detach };
    this.#disks.set(device, member);
  }

  /** Takes a disk out of the domain without closing it. */
  detach(device: string): Disk {
    const { disk, detach } = this.#entry(device);
    detach();
    this.#disks.delete(device);
    return disk;
  }

  /** The aliases, in the order they were attached. */
  get devices(): string[] {
    return [...this.#disks.keys()];
  }

  /** The disk of an alias. @throws MillraceError `ENOENT` when there is none. */
  disk(device: string): Disk {
    return this.#entry(device).disk;
  }

  /**
   * Populates [offset, offset + length) of a disk, without a length to its end; both 0 mean all of
   * it. See Disk.stream.
   */
  async stream(
    device: string,
    offset = 0,
    length?: number,
    options: Omit<StreamOptions, 'offset' | 'length'> = {},
  ): Promise<StreamInfo> {
    mustKnowOptions('stream', options, DOMAIN_STREAM_OPTIONS);
    const member = this.#entry(device);
    const job = { speed: options.speed ?? 0 };
    const result = member.disk.stream({
      ...options,
      offset,
      length,
      speed: slower(job.speed, this.#speed),
    });
    member.job ??= job;
    result.catch(() => {
      if (member.job === job) member.job = undefined;
    });
    await this.#share();
    return result;
  }

  /** As Disk.abort. */
  async abort(device: string): Promise<void> {
    return this.#entry(device).disk.abort();
  }

  /** As Disk.info. */
  async info(device: string): Promise<StreamInfo> {
    return this.#entry(device).disk.info();
  }

  /** As Disk.pause. */
  async pause(device: string): Promise<void> {
    return this.#entry(device).disk.pause();
  }

  /** As Disk.resume. */
  async resume(device: string): Promise<void> {
    return this.#entry(device).disk.resume();
  }

  /**
   * Bytes a second that all jobs of the domain have together: shared evenly among those that run,
   * but none gets more than it was started with, and what it leaves is the others'. 0 leaves each
   * job the speed it was started with.
   */
  async setSpeed(bytesPerSecond: number): Promise<void> {
    if (!Number.isFinite(bytesPerSecond) || bytesPerSecond < 0)
      throw new MillraceError(
        'EINVAL',
        `invalid speed ${bytesPerSecond}: must be 0 or more bytes per second`,
      );
    const lifted = this.#speed > 0 && bytesPerSecond === 0;
    this.#speed = bytesPerSecond;
    await this.#share(lifted);
  }

  /** Closes all disks, even if one of them fails to; the first failure is then thrown. */
  async close(): Promise<void> {
    await closeAll(this.devices.map((device) => this.detach(device)));
  }

  /** Gives every running job its part of the domain's speed. */
  async #share(lifted = false): Promise<void> {
    if (!this.#speed && !lifted) return;
    const running: { disk: Disk; speed: number }[] = [];
    for (const member of this.#disks.values()) {
      const info = await member.disk.info().catch(() => undefined);
      if (info?.status !== JobStatus.ACTIVE) continue;
      const { speed } = (member.job ??= { speed: info.speed });
      if (!info.paused) running.push({ disk: member.disk, speed });
    }
    // Those that want little first: what they leave is for the others.
    running.sort((a, b) => (a.speed || Infinity) - (b.speed || Infinity));
    let left = this.#speed;
    await Promise.all(
      running.map(({ disk, speed }, index) => {
        const share = this.#speed ? slower(speed, left / (running.length - index)) : speed;
        left -= share;
        // A job may have ended in between: then there is nothing to set.
        return disk.setSpeed(share).catch(() => {});
      }),
    );
  }

  #entry(device: string): Member {
    const entry = this.#disks.get(device);
    if (!entry) throw new MillraceError('ENOENT', `the domain has no disk '${device}'`);
    return entry;
  }
}

/**
 * The lower one of two speeds, of which 0 is unlimited. What is no speed stays so, for the disk to
 * refuse.
 */
function slower(a: number, b: number): number {
  if (a === 0) return b;
  return b === 0 ? a : Math.min(a, b);
}
