/** One profile of several boots, and one that is small enough to be kept beside an image. */
import { MillraceError } from '../api/errors.ts';
import type { Profile, ProfileRange } from './format.ts';
import { bytesOf, encodeProfile, FILE_BYTES_GOAL, RANGES_MAX, TOTAL_BYTES_MAX } from './format.ts';
import { joined } from './ranges.ts';

/** Gaps that are taken along to make a file smaller: bytes. */
const GAPS = [0, 4, 8, 16, 32, 64].map((kib) => kib * 1024);
/** What a smaller file may cost in bytes that are fetched in vain. */
const GROWTH_MAX = 1.1;
/** What fewer boots than this part of all have read is left out. */
const SHARE_MIN = 1 / 2;

/** A run that the same boots have read. */
interface Piece {
  offset: number;
  length: number;
  boots: number;
  /** The mean of when they did, */
  ms: number;
  /** and of their turns, which tell apart what was read at nearly the same time. */
  turn: number;
}

/**
 * The smallest file that costs little: ranges that follow soon and lie near are told as one, over
 * wider gaps until the file is as small as it should be.
 */
export async function smallFileOf(
  profile: Profile,
): Promise<{ file: Uint8Array; profile: Profile }> {
  const most = bytesOf(profile.ranges) * GROWTH_MAX;
  let best: { file: Uint8Array; profile: Profile } = { file: new Uint8Array(), profile };
  for (const gap of GAPS) {
    const smaller = { ...profile, ranges: joined(profile.ranges, gap) };
    if (gap > 0 && bytesOf(smaller.ranges) > most) break;
    best = { file: await encodeProfile(smaller), profile: smaller };
    if (best.file.length <= FILE_BYTES_GOAL) break;
  }
  return best;
}

/**
 * What at least half of several boots have read: first what all of them have, then what fewer have,
 * each in the order of the times at which they did.
 * @throws MillraceError `EINVAL` for profiles of disks of different sizes. That their bases are the
 *   same is for the caller to see.
 */
export function mergeProfiles(profiles: readonly Profile[]): Profile {
  const [first] = profiles;
  if (profiles.some(({ diskSize }) => diskSize !== first.diskSize))
    throw new MillraceError('EINVAL', 'the profiles are of disks of different sizes');
  const pieces = commonPieces(profiles.map(({ ranges }) => ranges))
    .filter(({ boots }) => boots >= profiles.length * SHARE_MIN)
    .sort((a, b) => b.boots - a.boots || a.ms - b.ms || a.turn - b.turn || a.offset - b.offset);
  const ranges: ProfileRange[] = [];
  let [bytes, ms] = [0, 0];
  for (const piece of pieces) {
    bytes += piece.length;
    if (bytes > TOTAL_BYTES_MAX || ranges.length === RANGES_MAX) break;
    // Times never go back, whatever was put in front.
    ms = Math.max(ms, piece.ms);
    ranges.push({ offset: piece.offset, length: piece.length, ms });
  }
  return {
    base: first.base,
    diskSize: first.diskSize,
    seconds: Math.max(...profiles.map(({ seconds }) => seconds)),
    boots: profiles.reduce((sum, { boots }) => sum + boots, 0),
    ranges: joined(ranges, 0),
  };
}

/** The disk cut where any profile's range begins or ends, as far as any has it. */
function commonPieces(profiles: readonly (readonly ProfileRange[])[]): Piece[] {
  const edges = profiles.flatMap((ranges) =>
    ranges.flatMap(({ offset, length, ms }, turn) => [
      { at: offset, boots: 1, ms, turn },
      { at: offset + length, boots: -1, ms: -ms, turn: -turn },
    ]),
  );
  edges.sort((a, b) => a.at - b.at);
  const pieces: Piece[] = [];
  let [boots, ms, turn] = [0, 0, 0];
  edges.forEach((edge, i) => {
    boots += edge.boots;
    ms += edge.ms;
    turn += edge.turn;
    const end = edges[i + 1]?.at;
    if (boots > 0 && end > edge.at)
      pieces.push({
        offset: edge.at,
        length: end - edge.at,
        boots,
        ms: ms / boots,
        turn: turn / boots,
      });
  });
  return pieces;
}
