/** The options of every command that opens an image: how it gets at bases on servers. */
import type { Command } from 'commander';
import { MillraceError } from '../../api/errors.ts';
import { listed, size } from './options.ts';

/** As the options of the commands are named. */
export interface ReachOptions {
  base?: string | false;
  from?: string | string[];
  header?: string[];
  tokenFile?: string;
  baseTokenFile?: string;
  forceShare?: boolean;
  cache?: string;
  cacheSize?: number;
  unpack?: boolean;
  sequential?: boolean;
  profile?: string[];
  order?: string;
}

/** It says in its own file where the base of each disk is. */
export const OWN_FROM: readonly string[] = ['serve'];
/** Its `--token-file` is of the server that it is itself. */
export const SERVER = 'serve';
/** They open no image. */
export const WITHOUT_BASES: readonly string[] = ['abort', 'resume', 'completion', 'show', 'merge'];

/** They read bases for long, or again and again. */
const CACHING: readonly string[] = ['create', 'serve', 'stream'];
/** They look at images that others may have open. */
export const READING: readonly string[] = [
  'info',
  'map',
  'check',
  'convert',
  'compare',
  'measure',
  'snapshot',
];

/** Adds the options that every command has which opens an image. */
export function declareReach(command: Command): void {
  const name = command.name();
  if (WITHOUT_BASES.includes(name)) return;
  if (!OWN_FROM.includes(name))
    command.option(
      '--from <url|path>',
      name === 'create'
        ? 'where the backing file of the base is now, if not where the base records it'
        : 'where the base is now, if not where the overlay records it',
    );
  command.option(
    '-U, --force-share',
    READING.includes(name)
      ? 'do not warn of another program that has an image open for writing'
      : 'take bases that another program has open for writing, too',
  );
  if (CACHING.includes(name))
    command
      .option(
        '--cache <dir>',
        'a folder that keeps what is fetched of bases on servers, for the next disk over them',
        cacheDirectory,
      )
      .option(
        '--cache-size <size>',
        'how much it may take; what was used longest ago goes first (default: 20G)',
        size,
      );
  command.option('--no-unpack', 'take a compressed file or an archive as it is, not what is in it');
  command.option(
    '--sequential',
    'take also what a server without byte ranges sends: reads wait until all before them has come',
  );
  command.option(
    '--header <line>',
    "a header for the base's server, as 'Name: value'; several by as many options",
    listed,
  );
  command.option(
    name === SERVER ? '--base-token-file <path>' : '--token-file <path>',
    "a token for the base's server (Authorization: Bearer …), in a file",
  );
}

/** @throws MillraceError `EINVAL` for what is a mode of caching, as `--cache` was before. */
function cacheDirectory(text: string): string {
  if (text !== 'unsafe' && text !== 'writeback') return text;
  throw new MillraceError(
    'EINVAL',
    `--cache names a folder for bases: the mode '${text}' is given by -t, or the folder as ./${text}`,
  );
}
