/** `millrace convert`: a copy of what a disk shows, as a file of its own. */
import type { Command } from 'commander';
import { Option } from 'commander';
import type { ConvertOptions } from '../../api/convert.ts';
import { MillraceError, messageOf } from '../../api/errors.ts';
import type { ImageFormat } from '../../api/image.ts';
import { convertWith } from '../../disk/convert/convert.ts';
import { creationOptions, mustBeOneBase, snapshotChoice } from './creation.ts';
import type { Ended } from './options.ts';
import {
  addExample,
  baseFormat,
  cacheMode,
  creation,
  followChain,
  imageFormat,
  progressAnywhere,
  recordBase,
  size,
} from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_INTERRUPTED, EXIT_OK, tell } from './platform.ts';
import { withBar } from './progress.ts';
import { tellOfSecrets } from './secrets.ts';
import { formatElapsed, formatSize } from './sizes.ts';

interface ConvertCommandOptions
  extends Pick<
    ConvertOptions,
    | 'baseFormat'
    | 'clusterSize'
    | 'refcountBits'
    | 'extendedL2'
    | 'compress'
    | 'compressionType'
    | 'lazyRefcounts'
    | 'recordBase'
    | 'snapshot'
    | 'sparseSize'
    | 'followChain'
  > {
  /** The source's. */
  format?: ImageFormat;
  base?: string;
  outputFormat: ConvertOptions['format'];
  /** Tell how far it is where there is no terminal for a bar. */
  progress?: boolean;
  /** As commander has `-n`. */
  create?: boolean;
  cacheMode?: ConvertOptions['cache'];
  json?: boolean;
}

/** Declares `millrace convert`. */
export function declareConvert(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('convert')
    .description(
      'Copy all that a disk shows, its base included, into a new file that stands alone; with -B, an overlay.',
    )
    .argument('<source>', 'a path or URL')
    .argument('<target>', 'the file to make, which must not be there yet; or a block device')
    .addOption(imageFormat())
    .addOption(new Option('-O, --output-format <format>').choices(['raw', 'qcow2']).default('raw'))
    .option(
      '-n, --no-create',
      'write over an image that is there, which keeps its size and its backing file',
    )
    .addOption(progressAnywhere())
    .option(
      '-c, --compress',
      'compress the clusters of a qcow2 target, where that makes them smaller',
    )
    .option(
      '-B, --base <url|path>',
      "a base for a qcow2 target, which shows the same as the source's own: what the source itself does not hold is left to it",
    )
    .addOption(baseFormat())
    .addOption(recordBase())
    .option(
      '-l, --snapshot <snapshot>',
      "an internal snapshot of the source, by id or name, or 'snapshot.id=…,snapshot.name=…'",
      snapshotChoice,
    )
    .option('--cluster-size <size>', 'of a qcow2 target, from 512 to 2M (default: 64K)', size)
    .addOption(creation())
    .option(
      '-S, --sparse-size <size>',
      'zeros of so many bytes are left out of a raw target (default: 64K), and whole clusters of a qcow2 one; 0: zeros take space, too',
      size,
    )
    .addOption(new Option('-W', 'writes may go out of order, which they always may').hideHelp())
    .addOption(new Option('-m <n>', 'copies in flight, which are chosen by themselves').hideHelp())
    .addOption(cacheMode())
    .addOption(followChain())
    .option('--json', 'tell the result as JSON')
    .action(async (source, target, { W: _, m: __, ...options }) =>
      ended(await convert(platform, source, target, withCreation(options))),
    );
  addExample(
    command,
    'millrace convert vm.qcow2 vm.raw -O raw',
    'millrace convert vm.qcow2 small.qcow2 -O qcow2 -c -o compression_type=zstd',
    'millrace convert vm.qcow2 copy.qcow2 -O qcow2 -B debian.qcow2 -F qcow2',
  );
}

/** What `-o` says, among the options. */
function withCreation({
  o,
  ...options
}: ConvertCommandOptions & { o: string[] }): ConvertCommandOptions {
  const { size, base, baseFormat, ...shape } = creationOptions(o);
  if (size !== undefined)
    throw new MillraceError('EINVAL', 'a copy is as large as its source: no size in -o');
  if (o.length > 0 && options.outputFormat === 'raw')
    throw new MillraceError('EINVAL', '-o is for a qcow2 target (-O qcow2)');
  mustBeOneBase(base, options.base);
  return { base, baseFormat: baseFormat as ImageFormat | undefined, ...shape, ...options };
}

async function convert(
  platform: Platform,
  source: string,
  target: string,
  options: ConvertCommandOptions,
): Promise<number> {
  const {
    format: sourceFormat,
    outputFormat,
    cacheMode,
    create,
    progress,
    json,
    ...rest
  } = options;
  const stop = new AbortController();
  const release = platform.onInterrupt(() => stop.abort());
  const copied: ConvertOptions = {
    ...rest,
    source,
    sourceFormat,
    target,
    format: outputFormat,
    existing: create === false,
    cache: cacheMode,
    signal: stop.signal,
  };
  const before = performance.now();
  try {
    const { size } = await withBar(
      platform.stderr,
      (onProgress) => convertWith(platform.runtime, { ...copied, onProgress }),
      { anywhere: progress },
    );
    await tellOfSecrets(platform, target, rest);
    const seconds = (performance.now() - before) / 1000;
    await platform.stdout.write(
      json
        ? `${JSON.stringify({ filename: target, format: outputFormat, 'virtual-size': size, seconds: Number(seconds.toFixed(3)) })}\n`
        : `${target}: ${formatSize(size)} as ${outputFormat} in ${formatElapsed(seconds)}\n`,
    );
    return EXIT_OK;
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    await tell(platform, messageOf(error));
    return EXIT_INTERRUPTED;
  } finally {
    release();
  }
}
