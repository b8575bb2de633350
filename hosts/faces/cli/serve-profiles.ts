/** What `millrace serve` does with boot profiles: it records them, and says what they are worth. */
import type { Disk } from '../../api/disk.ts';
import { codeOf, MillraceError } from '../../api/errors.ts';
import type { RecordedProfile } from '../../api/profile.ts';
import type { Platform } from './platform.ts';
import { tell } from './platform.ts';
import { writeFile } from './profile.ts';
import { formatElapsed, formatSize } from './sizes.ts';

/**
 * Recordings go into new files: what is in the way shows before anything is served.
 * @throws MillraceError `EEXIST`
 */
export async function mustBeFree({ runtime }: Platform, paths: Iterable<string>): Promise<void> {
  for (const path of paths) {
    const there = await runtime.openSource(path).catch((error) => {
      if (codeOf(error) === 'ENOENT') return undefined;
      throw error;
    });
    await there?.close();
    if (there)
      throw new MillraceError(
        'EEXIST',
        `'${path}' is there already: a recording goes into a new file`,
      );
  }
}

/** Tells of a profile that was not fetched ahead to its end, and why. */
export async function tellOfReplay(platform: Platform, device: string, disk: Disk): Promise<void> {
  const { outcome, source = 'the boot profile', message } = await disk.replay();
  if (outcome === 'unusable') await tell(platform, `${device}: ${source} is not used: ${message}`);
  if (outcome === 'failed')
    await tell(platform, `${device}: ${source} is fetched ahead no further: ${message}`);
}

/** The recording of one disk. */
export class Recording {
  readonly #platform: Platform;
  readonly #device: string;
  readonly #disk: Disk;
  readonly #path: string;
  #done: Promise<void> | undefined;

  constructor(platform: Platform, device: string, disk: Disk, path: string) {
    this.#platform = platform;
    this.#device = device;
    this.#disk = disk;
    this.#path = path;
  }

  /** Writes the profile when the recording has ended by itself. */
  begin(): void {
    void this.#disk.profile({ wait: true }).then(
      () => this.end(),
      // Whoever ends the recording is told.
      () => {},
    );
  }

  /** Ends it, writes the profile, and says what it is worth. */
  end(): Promise<void> {
    return (this.#done ??= this.#end());
  }

  async #end(): Promise<void> {
    try {
      const recorded = await this.#disk.profile();
      await writeFile(this.#platform, this.#path, recorded.data);
      await tell(this.#platform, `${this.#device}: ${sentenceOf(recorded, this.#path)}`);
    } catch (error) {
      if (!(error instanceof MillraceError)) throw error;
      await tell(this.#platform, `${this.#device}: no profile was written: ${error.message}`);
    }
  }
}

/** What the recording was, and what its profile saves. */
function sentenceOf(
  { data, bytes, ranges, seconds, waits, estimate }: RecordedProfile,
  path: string,
): string {
  const { roundTripMs, bitsPerSecond, without, with: withIt } = estimate;
  return [
    `the boot read ${formatSize(bytes)} in ${ranges} places within ${formatElapsed(seconds)}, and waited for its base ${waits} times`,
    `a profile of ${formatSize(data.length)} (${path}) makes it wait ${formatElapsed(withIt)} instead of ${formatElapsed(without)} at ${roundTripMs} ms and ${bitsPerSecond / 1e6} Mbit/s`,
  ].join('; ');
}
