/**
 * Refusing options that do not exist: a caller without types who misspells one (`bas` for `base`)
 * would get an empty disk without a word. The types hold the lists against the interfaces: a new
 * option does not compile before it stands here, too.
 */
import type { CommitOptions, RebaseOptions } from './chain.ts';
import type { CheckOptions } from './check.ts';
import type { ConvertOptions } from './convert.ts';
import type { RangeOptions, ReadOptions } from './disk.ts';
import { MillraceError } from './errors.ts';
import type { StreamOptions } from './job.ts';
import type { CreateOptions, OpenOptions, UseOptions } from './open.ts';

/** Every name that the options of a call have. */
export type OptionNames<Options> = Readonly<Record<keyof Options, true>>;

const USE_OPTIONS: OptionNames<UseOptions> = {
  copyOnRead: true,
  forceShare: true,
  cache: true,
  unpack: true,
  sequential: true,
  profile: true,
  record: true,
  memory: true,
};

export const CREATE_OPTIONS: OptionNames<CreateOptions> = {
  overlay: true,
  base: true,
  baseFormat: true,
  size: true,
  clusterSize: true,
  refcountBits: true,
  extendedL2: true,
  compressionType: true,
  lazyRefcounts: true,
  followChain: true,
  recordBase: true,
  ...USE_OPTIONS,
};

export const OPEN_OPTIONS: OptionNames<OpenOptions> = {
  overlay: true,
  format: true,
  base: true,
  baseFormat: true,
  followChain: true,
  create: true,
  readOnly: true,
  ...USE_OPTIONS,
};

export const CHECK_OPTIONS: OptionNames<CheckOptions> = {
  overlay: true,
  format: true,
  repair: true,
  data: true,
  memory: true,
  onProgress: true,
};

export const COMMIT_OPTIONS: OptionNames<CommitOptions> = {
  overlay: true,
  base: true,
  keep: true,
  followChain: true,
  memory: true,
  onProgress: true,
};

export const REBASE_OPTIONS: OptionNames<RebaseOptions> = {
  overlay: true,
  base: true,
  baseFormat: true,
  unsafe: true,
  followChain: true,
  forceShare: true,
  recordBase: true,
  unpack: true,
  sequential: true,
  memory: true,
  onProgress: true,
};

export const CONVERT_OPTIONS: OptionNames<ConvertOptions> = {
  source: true,
  sourceFormat: true,
  snapshot: true,
  followChain: true,
  forceShare: true,
  unpack: true,
  sequential: true,
  target: true,
  format: true,
  base: true,
  baseFormat: true,
  recordBase: true,
  existing: true,
  compress: true,
  clusterSize: true,
  refcountBits: true,
  extendedL2: true,
  compressionType: true,
  lazyRefcounts: true,
  sparseSize: true,
  cache: true,
  memory: true,
  onProgress: true,
  signal: true,
};

/** A domain takes the range as arguments of their own. */
export const DOMAIN_STREAM_OPTIONS: OptionNames<Omit<StreamOptions, 'offset' | 'length'>> = {
  nonblock: true,
  speed: true,
  onError: true,
  base: true,
  keepBase: true,
  allocate: true,
  compressed: true,
  order: true,
  signal: true,
  onProgress: true,
};

const STREAM_OPTIONS: OptionNames<StreamOptions> = {
  ...DOMAIN_STREAM_OPTIONS,
  offset: true,
  length: true,
};

export const READ_OPTIONS: OptionNames<ReadOptions> = { signal: true, into: true };

export const RANGE_OPTIONS: OptionNames<RangeOptions> = {
  offset: true,
  length: true,
  signal: true,
};

/** A host that takes a job up again may begin it paused, which is no option of the public call. */
export const JOB_OPTIONS: OptionNames<StreamOptions & { paused?: boolean }> = {
  ...STREAM_OPTIONS,
  paused: true,
};

/** A name that differs in more letters than this is another word. */
const LETTERS_WRONG_MAX = 2;
/** A longer name is no slip of the pen, and is not printed whole. */
const NAME_CHARACTERS_MAX = 64;

/**
 * Refuses what `call` has no option for, and an option that is not the object's own, which copying
 * would lose. One that is undefined counts as left out, unless its name is a slip of the pen: what
 * was meant to be said is then lost.
 * @throws MillraceError `EINVAL`, with the name that was probably meant.
 */
export function mustKnowOptions(
  call: string,
  options: object,
  known: Readonly<Record<string, true>>,
): void {
  if (typeof options !== 'object' || options === null)
    throw new MillraceError('EINVAL', `${call} takes an object of options`);
  const inherited = inheritedNames(options);
  for (const name of [...Object.keys(options), ...inherited]) {
    if (Object.hasOwn(known, name) && inherited.has(name))
      throw new MillraceError(
        'EINVAL',
        `${call} takes options as properties of the object itself: '${name}' is inherited`,
      );
    if (Object.hasOwn(known, name)) continue;
    const names = Object.keys(known);
    const meant = similar(name, names);
    if ((options as Record<string, unknown>)[name] === undefined && !meant) continue;
    const advice = meant ? `did you mean '${meant}'?` : `it has ${names.join(', ')}`;
    throw new MillraceError(
      'EINVAL',
      `${call} has no option '${name.slice(0, NAME_CHARACTERS_MAX)}': ${advice}`,
    );
  }
}

/** What an object has by its prototypes that may be meant as an option: no methods of a class. */
function inheritedNames(options: object): Set<string> {
  const names = new Set<string>();
  for (
    let at = Object.getPrototypeOf(options) as object | null;
    at !== null && !Object.hasOwn(at, 'hasOwnProperty');
    at = Object.getPrototypeOf(at)
  )
    for (const [name, { get, enumerable }] of Object.entries(Object.getOwnPropertyDescriptors(at)))
      if ((get !== undefined || enumerable) && !Object.hasOwn(options, name)) names.add(name);
  return names;
}

/** The known name that is nearest to a wrong one, if any is near: by few letters. */
function similar(wrong: string, names: readonly string[]): string | undefined {
  if (wrong.length > NAME_CHARACTERS_MAX) return undefined;
  const lower = wrong.toLowerCase();
  const near = names
    .map((name) => ({ name, letters: distance(lower, name.toLowerCase()) }))
    .filter(({ name, letters }) => letters <= Math.min(LETTERS_WRONG_MAX, name.length / 2))
    .sort((one, other) => one.letters - other.letters);
  return near[0]?.name;
}

/**
 * How many letters have to be put in, taken out or changed to make one word of the other
 * (Levenshtein).
 */
function distance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, column) => column);
  for (let line = 1; line <= one.length; line++) {
    const next = [line];
    for (let column = 1; column <= other.length; column++) {
      const changed = row[column - 1] + (one[line - 1] === other[column - 1] ? 0 : 1);
      next[column] = Math.min(changed, row[column] + 1, next[column - 1] + 1);
    }
    row = next;
  }
  return row[other.length];
}
