/** `millrace commit`: writes what an overlay holds down into a local base, as `qemu-img commit` does. */
import { commitWith } from '../../disk/commit.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';
import { formatSize } from './sizes.ts';

export interface CommitCommandOptions {
  base?: string;
  keep?: boolean;
  followChain?: boolean;
  json?: boolean;
}

export async function commit(
  platform: Platform,
  overlay: string,
  { json, ...options }: CommitCommandOptions,
): Promise<number> {
  const report = await commitWith(platform.runtime, { overlay, ...options });
  const { base, bytes, emptied } = report;
  await platform.stdout.write(
    json
      ? `${JSON.stringify({ filename: overlay, ...report })}\n`
      : `${base}: ${formatSize(bytes)} written from ${overlay}${emptied ? ', which is empty now' : ''}\n`,
  );
  return EXIT_OK;
}
