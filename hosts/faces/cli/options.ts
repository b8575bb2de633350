/**
 * What the declarations of commands share: options that mean the same everywhere, and how their
 * values are read.
 */
import type { Command } from 'commander';
import { InvalidArgumentError, Option } from 'commander';
import { FORMAT_NAMES } from '../../disk/driver/formats.ts';
import { parseSize } from './sizes.ts';

/** Takes the exit code of a command that has run. */
export type Ended = (exitCode: number) => void;

const SIZES =
  'Sizes and offsets are bytes, or take K, M, G, T (powers of 1024), as in 64K or 1.5G.';

/** Ends a command's help with what sizes are, and with an example. */
export function addExample(command: Command, ...lines: string[]): void {
  command.addHelpText(
    'after',
    `\n${SIZES}\n\nExample:\n${lines.map((line) => `  ${line}`).join('\n')}`,
  );
}

/** The format of the image that a command is given. */
export function imageFormat(): Option {
  return new Option(
    '-f, --format <format>',
    "the image's format (default: told by its first bytes)",
  ).choices(FORMAT_NAMES);
}

export function baseFormat(): Option {
  return new Option(
    '-F, --base-format <format>',
    "the base's format (default: told by its first bytes)",
  ).choices(FORMAT_NAMES);
}

export function recordBase(): Option {
  return new Option(
    '--record-base <name>',
    "what the overlay records as its base's place (default: where it is, without user, password and query of a URL)",
  );
}

export function followChain(): Option {
  return new Option(
    '--follow-chain',
    'follow what a base names: backing files, the other files of a VMDK',
  );
}

/** `-p` of qemu-img. */
export function progressAnywhere(): Option {
  return new Option('-p, --progress', 'tell how far it is, also where that is no terminal');
}

/** `-o` of qemu-img: see creationOptions. */
export function creation(): Option {
  return new Option(
    '-o <options>',
    "of the new image, as qemu-img's: cluster_size=…, refcount_bits=…, extended_l2=on, …",
  )
    .argParser(listed)
    .default([], 'none');
}

/** An option of qemu-img's that is not taken: `advice` says what to use instead. */
export function refusing(command: Command, flags: string, advice: string): void {
  const option = new Option(flags).hideHelp();
  command.addOption(option);
  command.on(`option:${option.name()}`, () =>
    command.error(`${flags.replace(/ .*/, '')} is not supported: ${advice}`),
  );
}

export function cacheMode(): Option {
  return new Option(
    '-t, --cache-mode <mode>',
    'unsafe: do not wait for the disk; quicker, but a power cut soon after can leave a corrupt image (default: writeback)',
  ).choices(['writeback', 'unsafe']);
}

export function outputFormat(): Option {
  return new Option('--output <form>', 'for people or for programs')
    .choices(['human', 'json'])
    .default('human');
}

export function wantsJson(options: { output: string; json?: boolean }): boolean {
  return options.json === true || options.output === 'json';
}

export function size(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined)
    throw new InvalidArgumentError(
      'It is a number of bytes, or of K, M, G, T (powers of 1024), as in 64K or 1.5G, and less than 8192T.',
    );
  return bytes;
}

/**
 * Of an option that may be given more than once; one that took several values would take the
 * arguments behind it, too.
 */
export function listed(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}

export function count(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It is a whole number.');
  return Number(text);
}
