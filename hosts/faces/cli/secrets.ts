/** What an overlay does not record of a URL that was given as its base. */
import type { Platform } from './platform.ts';
import { tell } from './platform.ts';

/** An NBD URI holds none. */
const MAY_HOLD_SECRETS = /^(https?|wss?):/i;

/** Says so where there is any. */
export async function tellOfSecrets(
  platform: Platform,
  overlay: string,
  { base, recordBase }: { base?: string; recordBase?: string },
): Promise<void> {
  if (base !== undefined && recordBase === undefined && holdsSecrets(base))
    await tell(
      platform,
      `the user, password or query of the base's URL is not recorded in ${overlay}: give the URL again with --from, which every command takes, or record it with --record-base`,
    );
}

/** What createDisk leaves out of a URL that it records. */
function holdsSecrets(base: string): boolean {
  if (!MAY_HOLD_SECRETS.test(base) || !URL.canParse(base)) return false;
  const { username, password, search } = new URL(base);
  return username !== '' || password !== '' || search !== '';
}
