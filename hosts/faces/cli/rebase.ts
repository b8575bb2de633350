/** `millrace rebase`: gives an overlay another base, as `qemu-img rebase` does. */
import type { ImageFormat } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import { rebaseWith } from '../../disk/rebase.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';
import { formatSize } from './sizes.ts';

export interface RebaseCommandOptions {
  /** False for none. */
  base?: string | false;
  baseFormat?: ImageFormat;
  unsafe?: boolean;
  followChain?: boolean;
  recordBase?: string;
  json?: boolean;
}

export async function rebase(
  platform: Platform,
  overlay: string,
  options: RebaseCommandOptions,
): Promise<number> {
  const { base, json, ...how } = options;
  if (base === undefined)
    throw new MillraceError(
      'EINVAL',
      'say what the new base is: --base <url|path>, or --no-base for none',
    );
  const report = await rebaseWith(platform.runtime, { overlay, base: base || null, ...how });
  await platform.stdout.write(
    json
      ? `${JSON.stringify({ filename: overlay, ...report })}\n`
      : `${overlay}: ${report.base === null ? 'has no base now' : `its base is ${report.base} now`}; ${formatSize(report.bytes)} taken over from the old one\n`,
  );
  return EXIT_OK;
}
