/**
 * The boot profiles of one disk: the one that it records, and the one that it replays. A profile is
 * taken only for the base that it was recorded on; whatever it says, it brings data from the base
 * into the overlay as a read would, and nothing else.
 */
import {
  IMAGE_SIZE,
  KIND_POPULATE,
  OVERLAY,
  READ_AT_ONCE,
  READ_MISSED,
} from '../../engine/protocol.ts';
import type { BlockSource } from '../api/block.ts';
import { codeOf, MillraceError, messageOf } from '../api/errors.ts';
import { mustKnowOptions } from '../api/options.ts';
import type {
  ProfileChoice,
  ProfileFile,
  RecordedProfile,
  RecordOptions,
  ReplayInfo,
} from '../api/profile.ts';
import { estimateWaits, USUAL_LINE } from '../profiles/estimate.ts';
import type { Profile, ProfileRange } from '../profiles/format.ts';
import { bytesOf } from '../profiles/format.ts';
import { smallFileOf } from '../profiles/merge.ts';
import { planOf } from '../profiles/plan.ts';
import { Recorder } from '../profiles/recorder.ts';
import type { ReplayEnd } from '../profiles/replay.ts';
import { Replay } from '../profiles/replay.ts';
import type { Engine } from './driver/engine.ts';
import type { GivenProfile, OpenProfile } from './profile-file.ts';
import {
  checkChoice,
  loadedFrom,
  loadProfile,
  PROFILE_ENDING,
  readProfile,
} from './profile-file.ts';
import type { RecordedIdentity } from './recorded.ts';
import { isSameBase } from './recorded.ts';

/** Requests in flight where the base does not tell what it likes. */
const DEPTH_DEFAULT = 4;
const MS_PER_SECOND = 1000;

/** The nearest base of a disk, as far as profiles are concerned. */
export interface ProfiledBase {
  /** What an overlay records of it. */
  record: RecordedIdentity;
  /** Bytes of its virtual disk. */
  virtualSize: number;
  /** It can be read anywhere, and reads are kept in the overlay. */
  isStored: boolean;
  preferred?: { chunk: number; depth: number };
  /** Opens what stands beside it; undefined where nothing can. */
  beside?: BlockSource['beside'];
}

/** What the disk brings. */
export interface ProfileTools {
  engine: Engine;
  /** Bytes of the overlay's clusters. */
  cluster: number;
  /** None of a disk that stands alone. */
  base?: ProfiledBase;
  /** Opens what a caller names. */
  open: OpenProfile;
  record?: boolean | RecordOptions;
}

const NOTHING = { asked: 0, fetched: 0, requests: 0 };

export class DiskProfiles {
  readonly #tools: ProfileTools;
  readonly #recorder: Recorder | undefined;
  #recorded: Promise<RecordedProfile> | undefined;
  #waits = 0;
  #replay: Replay | undefined;
  /** The one replay of this disk, from the first time it was asked for. */
  #replaying: { choice: ProfileChoice; info: Promise<ReplayInfo> } | undefined;
  /** What the replay was told to take, once it has come. */
  #own: Promise<Profile | undefined> = Promise.resolve(undefined);
  #closed = false;

  /** @throws MillraceError `EINVAL` for options of a recording that cannot be. */
  constructor(tools: ProfileTools) {
    this.#tools = tools;
    const { record = false, base } = tools;
    const options = checkedRecording(record);
    if (options && base)
      this.#recorder = new Recorder(tools.engine.clock, base.virtualSize, options);
  }

  /** A guest begins to read: what is returned is told how it went, by the value of the request. */
  reading(offset: number, length: number): (value: number) => void {
    const record = this.#recorder?.reading(offset, length);
    return (value) => {
      const waited = value !== READ_AT_ONCE;
      if (waited && this.#recorder && !this.#recorder.ended) this.#waits++;
      record?.(waited);
      this.#replay?.noteRead(offset, length, value === READ_MISSED);
    };
  }

  /** A guest has written there, or discarded. */
  wrote(offset: number, length: number): void {
    this.#recorder?.wrote(offset, length);
  }

  /** See Disk.profile. */
  async profile({ wait = false }: { wait?: boolean } = {}): Promise<RecordedProfile> {
    const recorder = this.#recorder;
    if (recorder === undefined)
      throw new MillraceError(
        'ENOENT',
        this.#tools.base === undefined && this.#tools.record
          ? 'nothing is recorded: the disk has no base'
          : 'nothing is recorded on this disk: it is opened with record for that',
      );
    if (wait) await recorder.whenEnded();
    else recorder.end('told');
    return (this.#recorded ??= this.#fileOf(recorder));
  }

  async #fileOf(recorder: Recorder): Promise<RecordedProfile> {
    const { base, cluster } = this.#tools;
    if (recorder.touches.length === 0)
      throw new MillraceError('ENOENT', 'nothing was recorded: nothing of the base was read');
    const { file, profile } = await smallFileOf({
      base: base!.record,
      diskSize: base!.virtualSize,
      seconds: recorder.seconds,
      boots: 1,
      ranges: recorder.touches,
    });
    const waits = estimateWaits(
      recorder.touches,
      this.#planOf(profile.ranges),
      USUAL_LINE,
      cluster,
    );
    return {
      data: file,
      ranges: profile.ranges.length,
      bytes: bytesOf(recorder.touches),
      seconds: recorder.seconds,
      reads: recorder.reads,
      waits: this.#waits,
      ended: recorder.ended!,
      estimate: {
        ...USUAL_LINE,
        without: waits.without / MS_PER_SECOND,
        with: waits.with / MS_PER_SECOND,
      },
    };
  }

  /** As replay, with a profile that has been loaded. */
  begin(choice: ProfileChoice, given: GivenProfile | undefined): void {
    this.#start(choice, given);
  }

  /** See Disk.replay. */
  async replay(choice: ProfileChoice = 'auto'): Promise<ReplayInfo> {
    return this.#start(choice).info;
  }

  #start(choice: ProfileChoice, given?: GivenProfile): { info: Promise<ReplayInfo> } {
    checkChoice(choice);
    const before = this.#replaying;
    if (before && (choice === 'auto' || choice === before.choice)) return before;
    if (before)
      throw new MillraceError('EBUSY', 'a disk replays one profile, and this one has its own');
    const loading = given === undefined ? this.#load(choice) : Promise.resolve(given);
    this.#own = loading.then((loaded) => loaded?.profile);
    // Nobody may wait for it.
    this.#own.catch(() => {});
    const info = loading.then(
      (loaded) => this.#run(loaded),
      (error) => {
        if (choice !== 'auto') throw error;
        return { outcome: 'unusable', message: messageOf(error), ...NOTHING } as const;
      },
    );
    info.catch(() => {});
    this.#replaying = { choice, info };
    return this.#replaying;
  }

  async #load(choice: ProfileChoice): Promise<GivenProfile | undefined> {
    if (choice === 'auto') return this.#loadBeside();
    return loadProfile(choice, this.#tools.open);
  }

  /** Undefined where there is none: whatever keeps it from being had is as if it were not there. */
  async #loadBeside(): Promise<GivenProfile | undefined> {
    const source = await this.#tools.base?.beside?.(PROFILE_ENDING).catch(() => undefined);
    if (source === undefined) return undefined;
    return loadedFrom(source).catch((error) => {
      // A server may answer anything for what it does not have.
      if (codeOf(error) === 'ECORRUPT' || codeOf(error) === 'EUNSUPPORTED') throw error;
      return undefined;
    });
  }

  async #run(loaded: GivenProfile | undefined): Promise<ReplayInfo> {
    if (loaded === undefined) return { outcome: 'none', ...NOTHING };
    const { profile, source } = loaded;
    const objection = this.#objection(profile);
    if (objection !== undefined)
      return { outcome: 'unusable', source, message: objection, ...NOTHING };
    const { engine, base } = this.#tools;
    const depth = Math.max(1, (base!.preferred?.depth ?? DEPTH_DEFAULT + 1) - 1);
    this.#replay = new Replay(this.#planOf(profile.ranges), {
      clock: engine.clock,
      depth,
      populate: (offset, length) => engine.request(KIND_POPULATE, offset, length),
    });
    this.#replay.begin();
    return infoOf(await this.#replay.ended, source);
  }

  /** Why a profile is of no use to this disk. */
  #objection(profile: Profile): string | undefined {
    const { base } = this.#tools;
    if (this.#closed) return 'the disk has been closed';
    if (base === undefined) return 'the disk has no base any more';
    if (!base.isStored) return 'what is read of the base is not kept, or comes in order only';
    if (profile.diskSize !== base.virtualSize || !isSameBase(profile.base, base.record))
      return 'it was recorded on another base, or the base has changed since';
    return undefined;
  }

  #planOf(ranges: readonly ProfileRange[]): ProfileRange[] {
    const { engine, base, cluster } = this.#tools;
    // A disk may be smaller than its base.
    const size = Math.min(base!.virtualSize, engine.imageReport(OVERLAY)[IMAGE_SIZE]);
    return planOf(ranges, { size, cluster, most: engine.exports.requestBytesMax() });
  }

  /**
   * The ranges that a job with this order copies first.
   * @throws MillraceError as Disk.replay does; `EINVAL` for a profile of another base.
   */
  async rangesOf(order: 'profile' | ProfileFile): Promise<ProfileRange[]> {
    if (order === 'profile') {
      const own = await this.#own.catch(() => undefined);
      return own && this.#objection(own) === undefined ? own.ranges : [];
    }
    checkChoice(order);
    const { profile, source } = await readProfile(order, this.#tools.open);
    const objection = this.#objection(profile);
    if (objection !== undefined && this.#tools.base !== undefined)
      throw new MillraceError('EINVAL', `cannot stream in the order of ${source}: ${objection}`);
    return profile.ranges;
  }

  /** Nothing more is fetched ahead, and nothing recorded. */
  close(): void {
    this.#closed = true;
    this.#recorder?.end('told');
    this.#replay?.stop();
  }
}

function infoOf(
  { outcome, asked, fetched, requests, error }: ReplayEnd,
  source: string,
): ReplayInfo {
  const message = error === undefined ? undefined : messageOf(error);
  return { outcome, source, ...(message && { message }), asked, fetched, requests };
}

/** @throws MillraceError `EINVAL` for an invalid option. */
export function checkedRecording(
  record: boolean | RecordOptions,
): { mostMs?: number; quietMs?: number } | undefined {
  if (typeof record === 'boolean') return record ? {} : undefined;
  mustKnowOptions('record', record, { seconds: true, quiet: true });
  for (const [name, value] of Object.entries(record))
    if (value !== undefined && !(Number.isFinite(value) && value > 0))
      throw new MillraceError('EINVAL', `record: ${name} is a number of seconds, not ${value}`);
  const { seconds, quiet } = record;
  // Who says how long means all of that time.
  const quietSeconds = quiet ?? (seconds === undefined ? undefined : Infinity);
  return {
    ...(seconds !== undefined && { mostMs: seconds * MS_PER_SECOND }),
    ...(quietSeconds !== undefined && { quietMs: quietSeconds * MS_PER_SECOND }),
  };
}
