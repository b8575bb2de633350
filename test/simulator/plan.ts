/**
 * What one seed is about: every seed picks its own images, options, workload and faults (swarm
 * testing), so that rare combinations come up, and nothing is drowned by what happens always.
 */
import { Random } from '../fixtures/content.ts';
import type { Faults } from './machine.ts';
import type { Oddity } from './odd.ts';
import { ODDITIES, ODDITIES_OF_BASES } from './odd.ts';
import type { Fill } from './writer.ts';

/**
 * An image of the chain below the overlay, or the overlay itself where it is not made by the
 * engine.
 */
export interface ImagePlan {
  format: 'raw' | 'qcow2';
  version: 2 | 3;
  clusterBits: number;
  refcountOrder: number;
  extendedL2: boolean;
  size: number;
  /** What its clusters are chosen from. */
  fills: Fill[];
  /** What it has that only other writers make. */
  odd: readonly Oddity[];
}

export interface Weights {
  read: number;
  write: number;
  zero: number;
  discard: number;
  flush: number;
  resize: number;
  job: number;
  look: number;
}

export interface Plan {
  memory: number;
  overlay: ImagePlan;
  /** The engine makes the overlay; otherwise the writer does, with content of its own. */
  created: boolean;
  /** From the nearest down. */
  chain: ImagePlan[];
  copyOnRead: boolean;
  readAhead: boolean;
  /** What is fetched ahead: places that the guest asks for, others, or what no disk has. */
  profile?: 'right' | 'wrong' | 'hostile';
  /** Some writes are of clusters that have been compressed. */
  packs?: boolean;
  trims: boolean;
  flushesDear: boolean;
  /** The host tells the holes of raw bases. */
  tellsHoles: boolean;
  faults: Faults;
  /** Times that the disk is opened. */
  epochs: number;
  /** Guest requests each time. */
  requests: number;
  depth: number;
  /** Longest pause between two requests: ms. */
  think: number;
  /** Requests start and end at multiples of this. */
  alignment: number;
  longest: number;
  /** Requests go to so many places, if not 0. */
  hotspots: number;
  weights: Weights;
}

const MIB = 1 << 20;
const MEMORY_MIN = 8 * MIB;
/** Images in a chain at most, the overlay included: as the engine has it. */
const IMAGES_MAX = 32;
const ODD_PER_CENT = 35;
/** Oddities of one image. */
const ODDITIES_MAX = 5;
const ONLY_VERSION_3: Oddity[] = ['short header', 'long header', 'unknown features', 'dirty'];
/** What a larger disk may come upon; as it may upon subclusters. */
const RESIZED: Oddity[] = ['more L1 entries', 'entries behind the end', 'ends with the disk'];
const CROWDED_PER_CENT = 2;
const SPARSE_PER_CENT = 4;
const STACKED_PER_CENT = 3;
const HOLLOW_PER_CENT = 3;
const KEEPING_PER_CENT = 6;
const SPARSE_BYTES = 2 * MIB;
const CROWDED_BYTES = 3 * MIB;
const HOLLOW_FILLS: Fill[] = [...Array.from({ length: 199 }, () => 'absent' as const), 'data'];
const LONG_CHAIN_FILLS: Fill[] = ['data', ...Array.from({ length: 19 }, () => 'absent' as const)];

export function planOf(seed: number): Plan {
  const plan = withProfile(
    withOddities(anyPlan(seed), new Random(seed ^ 0x1b873593)),
    new Random(seed ^ 0x2545f491),
  );
  plan.packs = new Random(seed ^ 0x27d4eb2f).between(0, 3) === 0;
  let kind = new Random(seed ^ 0x6c078965).between(1, 100);
  for (const [perCent, special] of SPECIAL) {
    if (kind <= perCent) return special(plan);
    kind -= perCent;
  }
  return plan;
}

/** Every third disk has a profile; the others do what they would do without. */
function withProfile(plan: Plan, random: Random): Plan {
  const profile = ([undefined, undefined, 'right', 'wrong', 'hostile', undefined] as const)[
    random.between(0, 5)
  ];
  return { ...plan, profile };
}

/** What any plan comes upon too rarely. */
const SPECIAL: [perCent: number, special: (plan: Plan) => Plan][] = [
  [CROWDED_PER_CENT, crowded],
  [SPARSE_PER_CENT, sparse],
  [STACKED_PER_CENT, stacked],
  [HOLLOW_PER_CENT, hollow],
  [KEEPING_PER_CENT, keeping],
];

/** Jobs over bases whose compressed clusters suit the overlay, and guests that write over them. */
function keeping(plan: Plan): Plan {
  const { clusterBits, size } = plan.overlay;
  const small = Math.min(clusterBits, 16);
  const base: ImagePlan = {
    ...plan.overlay,
    format: 'qcow2',
    clusterBits: small,
    refcountOrder: 4,
    extendedL2: false,
    size: Math.ceil(size / 512) * 512,
    fills: ['compressed', 'compressed', 'compressed', 'data', 'absent'],
  };
  return {
    ...plan,
    overlay: {
      ...plan.overlay,
      clusterBits: small,
      extendedL2: plan.overlay.extendedL2 && small >= 14,
      fills: ['absent', 'absent', 'absent', 'data'],
    },
    chain: [base, base].slice(0, 1 + (plan.chain.length > 1 ? 1 : 0)),
    weights: { ...plan.weights, job: 10 },
  };
}

/**
 * A chain of small clusters under large ones: where a job goes down to an image of it, a cluster is
 * made of what several have.
 */
function stacked(plan: Plan): Plan {
  const [size, small] = [
    plan.overlay.size,
    { version: 3, clusterBits: 9, extendedL2: false } as const,
  ];
  const images = Array.from(
    { length: 3 },
    (): ImagePlan => ({
      ...plan.overlay,
      ...small,
      size,
      fills: ['data', 'absent', 'absent', 'zero'],
    }),
  );
  return {
    ...plan,
    overlay: {
      ...plan.overlay,
      version: 3,
      clusterBits: 12,
      extendedL2: false,
      size,
      fills: ['absent', 'absent', 'data'],
    },
    chain: images.map((image) => ({ ...image, size: Math.ceil(size / 512) * 512 })),
    copyOnRead: false,
    readAhead: false,
    weights: { ...plan.weights, job: 10 },
  };
}

/** Jobs over bases with hardly anything in them, which storage that fails keeps from their end. */
function hollow(plan: Plan): Plan {
  const small = { version: 3, clusterBits: 9, extendedL2: false, size: SPARSE_BYTES } as const;
  return {
    ...plan,
    overlay: { ...plan.overlay, ...small },
    created: true,
    chain: [{ ...plan.overlay, ...small, format: 'qcow2', fills: [...HOLLOW_FILLS] }],
    readAhead: false,
    longest: 4096,
    faults: { ...plan.faults, readFails: 0, writeFails: 30, flushFails: 30, drops: 0 },
    weights: { ...plan.weights, write: 1, zero: 0, discard: 0, resize: 0, job: 10 },
  };
}

/**
 * Small writes and discards all over an empty overlay: places that data has left become tables, and
 * the power goes often.
 */
function sparse(plan: Plan): Plan {
  const overlay: ImagePlan = {
    ...plan.overlay,
    version: 3,
    clusterBits: 9,
    extendedL2: false,
    size: SPARSE_BYTES,
    fills: ['absent'],
  };
  return {
    ...plan,
    overlay,
    chain: plan.chain.slice(0, 1),
    epochs: 12,
    requests: 60,
    longest: 2048,
    hotspots: 0,
    alignment: 512,
    trims: false,
    weights: { ...plan.weights, write: 20, discard: 20, flush: 3, job: 0 },
  };
}

/**
 * Many requests at once, all over an image with more tables than the metadata cache has room for.
 */
function crowded(plan: Plan): Plan {
  const smallClusters = (image: ImagePlan): ImagePlan => ({
    ...image,
    clusterBits: 9,
    extendedL2: false,
    size: CROWDED_BYTES,
    fills: ['data', 'absent'],
  });
  return {
    ...plan,
    memory: MEMORY_MIN,
    overlay: smallClusters(plan.overlay),
    chain: plan.chain.slice(0, 2).map(smallClusters),
    created: false,
    epochs: 1,
    requests: 150,
    depth: 90,
    think: 0,
    longest: 4096,
    hotspots: 0,
  };
}

function anyPlan(seed: number): Plan {
  const random = new Random(seed * 2654435761);
  const pick = <T>(...choices: T[]): T => choices[random.between(0, choices.length - 1)];
  const sometimes = (perCent: number): boolean => random.between(1, 100) <= perCent;
  const size = pick(
    random.between(1, 64) * 512,
    random.between(1, 16) * 65536,
    random.between(1, 3) * MIB,
    random.between(1000, sometimes(10) ? 20_000 : 4000) * 512,
  );
  const overlay = imagePlan(random, size, true);
  const long = sometimes(4);
  const chain = Array.from(
    { length: long ? random.between(4, IMAGES_MAX - 1) : pick(0, 1, 1, 1, 2, 3) },
    () => {
      const bytes = pick(size, size, random.between(1, size), size + random.between(1, 100_000));
      const image = imagePlan(random, bytes, false);
      // What the first images have decides; the others have to be looked into all the same.
      if (long) return { ...image, size: Math.ceil(bytes / 512) * 512, fills: LONG_CHAIN_FILLS };
      return sometimes(40)
        ? { ...image, format: 'raw' as const }
        : { ...image, size: Math.ceil(bytes / 512) * 512 };
    },
  );
  const restless = sometimes(30);
  // A raw image has nothing below.
  const end = chain.findIndex(({ format }) => format === 'raw');
  if (end >= 0) chain.length = end + 1;
  return {
    memory: MEMORY_MIN + (overlay.clusterBits > 18 ? 24 * MIB : pick(0, 0, 8 * MIB)),
    overlay,
    created: overlay.version === 3 && sometimes(50),
    chain,
    copyOnRead: sometimes(80),
    readAhead: sometimes(40),
    trims: sometimes(60),
    flushesDear: sometimes(50),
    faults: faultsOf(random, pick, sometimes),
    epochs: restless ? random.between(6, 20) : random.between(1, 6),
    requests: restless ? pick(10, 40, 80) : pick(10, 50, 150, 400),
    depth: pick(1, 4, 16, 90),
    think: pick(0, 0.1, 5, 200, 60_000, 3_600_000),
    alignment: pick(1, 512, 512, 4096),
    longest: pick(4096, 65536, 4 * 2 ** overlay.clusterBits, 300_000),
    hotspots: pick(0, 0, 2, 5),
    weights: weightsOf(random),
    tellsHoles: sometimes(60),
  };
}

function imagePlan(random: Random, size: number, isOverlay: boolean): ImagePlan {
  const version = random.between(1, 6) === 1 ? 2 : 3;
  const clusterBits = [9, 9, 10, 12, 12, 14, 16, 16, 16, 18, 21][
    random.between(0, isOverlay ? 10 : 9)
  ];
  const extendedL2 = version === 3 && clusterBits >= 14 && random.between(1, 3) === 1;
  const refcountOrder = version === 2 ? 4 : [4, 4, 0, 1, 2, 3, 5, 6][random.between(0, 7)];
  const all: Fill[] = [
    'data',
    'absent',
    'absent',
    'zero',
    'zero with place',
    'compressed',
    'subclusters',
  ];
  const fills = all.filter((fill) => {
    if (fill === 'zero' || fill === 'zero with place')
      return version === 3 && random.between(0, 2) > 0;
    if (fill === 'compressed') return refcountOrder > 3 && random.between(0, 2) === 0;
    if (fill === 'subclusters') return extendedL2;
    return true;
  });
  return { format: 'qcow2', version, clusterBits, refcountOrder, extendedL2, size, fills, odd: [] };
}

/**
 * Gives some of the images oddities: one or several. What grows over what stands behind its end is
 * worth seeing more often.
 */
function withOddities(plan: Plan, random: Random): Plan {
  const odd = (image: ImagePlan, isOverlay: boolean): ImagePlan => {
    if (random.between(1, 100) > ODD_PER_CENT) return image;
    const known: readonly Oddity[] = isOverlay ? ODDITIES : [...ODDITIES, ...ODDITIES_OF_BASES];
    const possible = known.filter((kind) => image.version === 3 || !ONLY_VERSION_3.includes(kind));
    return {
      ...image,
      odd: Array.from(
        { length: random.between(1, ODDITIES_MAX) },
        () => possible[random.between(0, possible.length - 1)],
      ),
    };
  };
  const overlay = plan.created ? plan.overlay : odd(plan.overlay, true);
  const grows =
    overlay.odd.some((kind) => RESIZED.includes(kind)) || (overlay.extendedL2 && !plan.created);
  const resize = grows ? 2 : plan.weights.resize;
  return {
    ...plan,
    overlay,
    chain: plan.chain.map((image) => odd(image, false)),
    weights: { ...plan.weights, resize },
  };
}

function faultsOf(
  random: Random,
  pick: <T>(...choices: T[]) => T,
  sometimes: (perCent: number) => boolean,
): Faults {
  const rate = (perCent: number, most: number): number =>
    sometimes(perCent) ? random.between(1, most) : 0;
  return {
    readFails: rate(30, 60),
    writeFails: rate(30, 60),
    flushFails: rate(12, 60),
    tears: sometimes(50),
    noSpace: sometimes(40),
    space: sometimes(12) ? random.between(0, 40) * 65536 : Infinity,
    drops: rate(5, 10),
    slow: pick(0.05, 1, 10),
    slowBase: pick(0.05, 5, 100),
    stalls: rate(20, 50),
    immediate: pick(0, 0, 0, 300, 1000),
  };
}

function weightsOf(random: Random): Weights {
  const weight = (often: number): number =>
    random.between(0, 3) === 0 ? 0 : random.between(1, often);
  return {
    read: random.between(1, 20),
    write: weight(20),
    zero: weight(6),
    discard: weight(6),
    flush: weight(5),
    resize: weight(1) && random.between(0, 1),
    job: weight(4),
    look: weight(3),
  };
}
