/**
 * `millrace commit`: writes what an overlay holds down into a local base, as `qemu-img commit`
 * does.
 */
import type { Command } from 'commander';
import { commitWith } from '../../disk/commit.ts';
import type { Ended } from './options.ts';
import { addExample, followChain, progressAnywhere } from './options.ts';
import { warnOfOverlays } from './overlays.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';
import { withBar } from './progress.ts';
import { formatSize } from './sizes.ts';

export interface CommitCommandOptions {
  base?: string;
  keep?: boolean;
  followChain?: boolean;
  /** Tell how far it is where there is no terminal for a bar. */
  progress?: boolean;
  json?: boolean;
}

/** Declares `millrace commit`. */
export function declareCommit(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('commit')
    .description(
      'Write what an overlay holds down into its base, which must be local, and empty the overlay.\nOther overlays over that base show the changes too, or break; overlays over the one that is emptied need rebase -u.',
    )
    .argument('<overlay>')
    .option(
      '-b, --base <image>',
      'write into this image of the chain (a path, or its depth: 1 is the base), together with all that lies between; the overlay then stays as it is',
    )
    .option('-d, --keep', "keep the overlay's data")
    .addOption(followChain())
    .addOption(progressAnywhere())
    .option('--json', 'tell the result as JSON')
    .action(async (overlay, options) => ended(await commit(platform, overlay, options)));
  addExample(command, 'millrace commit vm.qcow2');
}

export async function commit(
  platform: Platform,
  overlay: string,
  { json, progress, ...options }: CommitCommandOptions,
): Promise<number> {
  const report = await withBar(
    platform.stderr,
    (onProgress) => commitWith(platform.runtime, { overlay, ...options, onProgress }),
    { anywhere: progress },
  );
  const { base, bytes, emptied } = report;
  if (bytes > 0) await warnOfOverlays(platform, base, { but: overlay, isOther: true });
  if (emptied) await warnOfOverlays(platform, overlay);
  await platform.stdout.write(
    json
      ? `${JSON.stringify({ filename: overlay, ...report })}\n`
      : `${base}: ${formatSize(bytes)} written from ${overlay}${emptied ? ', which is empty now' : ''}\n`,
  );
  return EXIT_OK;
}
