/** The file of a boot profile: what a caller may name as one, and how it is read. */
import type { BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { ProfileChoice, ProfileFile } from '../api/profile.ts';
import type { Profile } from '../profiles/format.ts';
import { decodeProfile, FILE_BYTES_MAX } from '../profiles/format.ts';

/** What a profile beside a base is called: the base's URL and this. */
export const PROFILE_ENDING = '.profile';

/** Opens what a caller names. */
export type OpenProfile = (location: string | URL) => Promise<BlockSource>;

/** A profile, and how it is called. */
export interface GivenProfile {
  profile: Profile;
  source: string;
}

/**
 * The profile that a caller gives, if one is given.
 * @throws MillraceError what opening it throws, `EINVAL`, `ECORRUPT`, `EUNSUPPORTED`
 */
export async function loadProfile(
  choice: ProfileChoice,
  open: OpenProfile,
): Promise<GivenProfile | undefined> {
  checkChoice(choice);
  return choice === 'auto' || choice === 'none' ? undefined : readProfile(choice, open);
}

/** The profile at a place, or of a file. @throws as loadProfile */
export async function readProfile(choice: ProfileFile, open: OpenProfile): Promise<GivenProfile> {
  if (choice instanceof Uint8Array)
    return { profile: await decodeProfile(choice), source: 'the profile that was given' };
  return loadedFrom(await open(choice));
}

export async function loadedFrom(source: BlockSource): Promise<GivenProfile> {
  const name = source.name ?? 'the profile';
  return { profile: await decodeProfile(await bytesAt(source), name), source: name };
}

async function bytesAt(source: BlockSource): Promise<Uint8Array> {
  try {
    if (source.size > FILE_BYTES_MAX)
      throw new MillraceError(
        'EINVAL',
        `${source.name ?? 'it'} is no boot profile: it has ${source.size} bytes`,
      );
    const bytes = new Uint8Array(source.size);
    if (bytes.length > 0) await source.read(0, bytes);
    return bytes;
  } finally {
    await source.close();
  }
}

export function checkChoice(choice: unknown): void {
  const isPlace = typeof choice === 'string' && choice !== '';
  if (!isPlace && !(choice instanceof URL) && !(choice instanceof Uint8Array))
    throw new MillraceError(
      'EINVAL',
      "a profile is 'auto', 'none', a path, a URL, or the bytes of its file",
    );
}
