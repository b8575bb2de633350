/** `millrace rebase`: gives an overlay another base, as `qemu-img rebase` does. */
import type { Command } from 'commander';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat } from '../../api/image.ts';
import { rebaseWith } from '../../disk/rebase.ts';
import type { Ended } from './options.ts';
import { addExample, baseFormat, followChain, progressAnywhere, recordBase } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK, tell } from './platform.ts';
import { withBar } from './progress.ts';
import { formatSize } from './sizes.ts';

export interface RebaseCommandOptions {
  /** False for none. */
  base?: string | false;
  baseFormat?: ImageFormat;
  unsafe?: boolean;
  followChain?: boolean;
  recordBase?: string;
  /** Tell how far it is where there is no terminal for a bar. */
  progress?: boolean;
  json?: boolean;
}

/** Declares `millrace rebase`. */
export function declareRebase(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('rebase')
    .description(
      'Give an overlay another base. The disk shows the same as before: where the two differ, the overlay takes over what the\nold base holds, which may have another date than it had (a copy), but not another size.',
    )
    .argument('<overlay>')
    .option('-b, --base <url|path>', "the new base; '' for none")
    .option('--no-base', 'no base: the overlay then stands alone')
    .addOption(baseFormat())
    .option(
      '-u, --unsafe',
      'change only the reference, for a base that was moved; the old one need not be there, and the format stays as recorded',
    )
    .addOption(followChain())
    .addOption(recordBase())
    .addOption(progressAnywhere())
    .option('--json', 'tell the result as JSON')
    .action(async (overlay, options) => ended(await rebase(platform, overlay, options)));
  addExample(command, 'millrace rebase vm.qcow2 --base /images/debian-13.qcow2');
}

export async function rebase(
  platform: Platform,
  overlay: string,
  options: RebaseCommandOptions,
): Promise<number> {
  const { base, json, progress, ...how } = options;
  if (base === undefined)
    throw new MillraceError(
      'EINVAL',
      'say what the new base is: --base <url|path>, or --no-base for none',
    );
  const report = await withBar(
    platform.stderr,
    (onProgress) =>
      rebaseWith(platform.runtime, { overlay, base: base || null, ...how, onProgress }),
    { anywhere: progress },
  );
  if (report.otherDate !== undefined)
    await tell(
      platform,
      `the old base of ${overlay} is taken for what it was made on, by its size: ${report.otherDate}`,
    );
  await platform.stdout.write(
    json
      ? `${JSON.stringify({ filename: overlay, ...report })}\n`
      : `${overlay}: ${report.base === null ? 'has no base now' : `its base is ${report.base} (${report.baseFormat}) now`}; ${formatSize(report.bytes)} taken over from the old one\n`,
  );
  return EXIT_OK;
}
