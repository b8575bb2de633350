/**
 * The command line: which commands and options there are, and how errors come out: on one line, without a stack trace. What a command
 * does stands in the file named after it.
 */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { MillraceError } from '../../api/errors.ts';
import { check } from './check.ts';
import { commit } from './commit.ts';
import { convert } from './convert.ts';
import { create } from './create.ts';
import { info } from './info.ts';
import { map } from './map.ts';
import type { Platform } from './platform.ts';
import { EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, tell } from './platform.ts';
import { rebase } from './rebase.ts';
import { abort, serve } from './serve.ts';
import { parseSize } from './sizes.ts';
import { stream } from './stream.ts';

const SIZES =
  'Sizes and offsets are bytes, or take K, M, G, T (powers of 1024), as in 64K or 1.5G.';

/** Runs one command line (the arguments after the program's name) and gives the exit code. It never throws. */
export async function runCommandLine(platform: Platform, args: readonly string[]): Promise<number> {
  let exitCode: number = EXIT_OK;
  const { interruptible, release } = exitingOnInterrupt(platform);
  const program = makeProgram(interruptible, (code) => {
    exitCode = code;
  });
  try {
    await program.parseAsync(args, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode;
    const message =
      error instanceof MillraceError
        ? error.message
        : `something went wrong that should not: ${error instanceof Error ? error.message : String(error)}`;
    await tell(platform, message);
    return EXIT_FAILED;
  } finally {
    release();
  }
}

/**
 * Ends the program when the user asks for it, while no command has a handler of its own: a signal that nobody handles ends the process
 * without giving its locks back.
 */
function exitingOnInterrupt(platform: Platform): { interruptible: Platform; release: () => void } {
  let handlers = 0;
  const release = platform.onInterrupt(() => {
    if (handlers === 0) platform.exit(EXIT_INTERRUPTED);
  });
  const onInterrupt = (handler: () => void): (() => void) => {
    handlers++;
    const remove = platform.onInterrupt(handler);
    return () => {
      handlers--;
      remove();
    };
  };
  return { interruptible: { ...platform, onInterrupt }, release };
}

function makeProgram(platform: Platform, ended: (exitCode: number) => void): Command {
  const program = new Command('millrace')
    .description(
      'Streams disk images: a machine runs on a small local overlay at once, while its base is copied into it.',
    )
    .version(platform.version)
    .helpCommand(false)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void platform.stdout.write(text),
      writeErr: (text) => void platform.stderr.write(text),
      outputError: (text) => void tell(platform, text.replace(/^error: /, '').trim()),
      getOutHelpWidth: () => platform.stdout.columns ?? 80,
      getErrHelpWidth: () => platform.stderr.columns ?? 80,
      // Nothing is coloured; otherwise it asks the environment, which needs a permission in Deno.
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    });
  addExample(
    program,
    'millrace create vm.qcow2 --base https://images.example/debian.qcow2',
    'millrace stream vm.qcow2',
  );

  const createCommand = program
    .command('create')
    .description(
      'Make a new overlay over a base. It takes hardly any space, and shows what the base holds.',
    )
    .argument('<overlay>', 'the qcow2 file to make; it must not be there yet')
    .option(
      '--base <url|path>',
      'the base: an http: or https: URL, or a path; without one the disk is empty',
    )
    .addOption(baseFormat())
    .option('--size <size>', "size of the disk (default: the base's)", size)
    .option('--cluster-size <size>', 'from 512 to 2M (default: 64K)', size)
    .option('--refcount-bits <n>', 'width of a refcount, from 1 to 64 (default: 16)', count)
    .option('--extended-l2', '32 subclusters a cluster')
    .option('--follow-chain', 'follow the backing files that the base records')
    .option(
      '--record-base <name>',
      "what the overlay records as its base's place (default: where it is, without user, password and query of a URL)",
    )
    .option('--json', 'tell the result as JSON')
    .action(async (overlay, options) => ended(await create(platform, overlay, options)));
  addExample(
    createCommand,
    'millrace create vm.qcow2 --base https://images.example/debian.qcow2 --size 20G',
  );

  const streamCommand = program
    .command('stream')
    .description(
      'Copy what is missing from the base into the overlay. When nothing is missing any more, the overlay stands alone.\nCtrl-C stops it; run again, it goes on where it stopped.',
    )
    .argument('<overlay>')
    .option('--offset <size>', 'where the range begins (default: 0)', size)
    .option('--length <size>', 'how long the range is (default: to the end of the disk)', size)
    .option('--speed <size>', 'bytes a second at most (default: unlimited)', size)
    .addOption(
      new Option(
        '--on-error <policy>',
        'what an error does: end the job, pause it (it tries again by itself), be passed over, or pause it only if the disk is full',
      ).choices(['report', 'stop', 'ignore', 'enospc']),
    )
    .option(
      '--base <image>',
      'stream only down to this image of the chain, which becomes the new base',
    )
    .option('--keep-base', 'keep the reference to the base when nothing is missing any more')
    .addOption(
      new Option('--allocate <how>', 'full: zeros take space too').choices(['sparse', 'full']),
    )
    .option('--from <url|path>', 'where the base is now, if not where the overlay records it')
    .addOption(cacheMode())
    .addOption(baseFormat())
    .option('--follow-chain', 'follow the backing files that the base records')
    .option('--json', 'tell how it stands once a second, and at the end, as a line of JSON')
    .action(async (overlay, options) => ended(await stream(platform, overlay, options)));
  addExample(streamCommand, 'millrace stream vm.qcow2 --speed 20M');

  const infoCommand = program
    .command('info')
    .description(
      'Tell what an image is, and how much of it is still missing. The base is not opened: it may be out of reach.',
    )
    .argument('<image>', 'a path or URL')
    .addOption(outputFormat())
    .option('--json', 'the same as --output json')
    .action(async (image, options) =>
      ended(await info(platform, image, { json: wantsJson(options) })),
    );
  addExample(infoCommand, 'millrace info vm.qcow2 --output json');

  const mapCommand = program
    .command('map')
    .description(
      'Tell where each part of a disk is: in which image of the chain, and at which place of its file.',
    )
    .argument('<image>', 'a path or URL')
    .addOption(outputFormat())
    .option('--json', 'the same as --output json')
    .option('--follow-chain', 'follow the backing files that the base records')
    .action(async (image, options) =>
      ended(
        await map(platform, image, { json: wantsJson(options), followChain: options.followChain }),
      ),
    );
  addExample(mapCommand, 'millrace map vm.qcow2 --output json');

  const checkCommand = program
    .command('check')
    .description(
      'Look for errors in an image. Exit code: 0 sound, 1 could not be checked, 2 corrupt, 3 only leaks, 63 a raw image.',
    )
    .argument('<image>', 'a qcow2 file')
    .addOption(
      new Option('-r, --repair <what>', 'repair leaks, or all that can be repaired').choices([
        'leaks',
        'all',
      ]),
    )
    .addOption(outputFormat())
    .option('--json', 'the same as --output json')
    .action(async (image, options) =>
      ended(await check(platform, image, { repair: options.repair, json: wantsJson(options) })),
    );
  addExample(checkCommand, 'millrace check vm.qcow2 --repair leaks');

  const convertCommand = program
    .command('convert')
    .description(
      'Copy all that a disk shows, its base included, into a new file that stands alone.',
    )
    .argument('<source>', 'a path or URL')
    .argument('<target>', 'the file to make; it must not be there yet')
    .addOption(
      new Option('-O, --output-format <format>').choices(['raw', 'qcow2']).default('qcow2'),
    )
    .option('--cluster-size <size>', 'of a qcow2 target, from 512 to 2M (default: 64K)', size)
    .addOption(cacheMode())
    .option('--follow-chain', 'follow the backing files that the base records')
    .option('--json', 'tell the result as JSON')
    .action(async (source, target, options) =>
      ended(await convert(platform, source, target, options)),
    );
  addExample(convertCommand, 'millrace convert vm.qcow2 vm.raw -O raw');

  const commitCommand = program
    .command('commit')
    .description(
      'Write what an overlay holds down into its base, which must be local, and empty the overlay.\nOther overlays over that base show the changes too, or break.',
    )
    .argument('<overlay>')
    .option(
      '--base <image>',
      'write into this image of the chain, together with all that lies between; the overlay then stays as it is',
    )
    .option('--keep', "keep the overlay's data")
    .option('--follow-chain', 'follow the backing files that the base records')
    .option('--json', 'tell the result as JSON')
    .action(async (overlay, options) => ended(await commit(platform, overlay, options)));
  addExample(commitCommand, 'millrace commit vm.qcow2');

  const rebaseCommand = program
    .command('rebase')
    .description(
      'Give an overlay another base. The disk shows the same as before: where the two differ, the overlay takes over what the\nold base holds.',
    )
    .argument('<overlay>')
    .option('--base <url|path>', 'the new base')
    .option('--no-base', 'no base: the overlay then stands alone')
    .addOption(baseFormat())
    .option(
      '-u, --unsafe',
      'change only the reference, for a base that was moved; the old one need not be there',
    )
    .option('--follow-chain', 'follow the backing files that the bases record')
    .option(
      '--record-base <name>',
      "what the overlay records as its base's place (default: where it is, without user, password and query of a URL)",
    )
    .option('--json', 'tell the result as JSON')
    .action(async (overlay, options) => ended(await rebase(platform, overlay, options)));
  addExample(rebaseCommand, 'millrace rebase vm.qcow2 --base /images/debian-13.qcow2');

  const serveCommand = program
    .command('serve')
    .description(
      'Serve disks over HTTP, until Ctrl-C: their flat content by ranges, and their jobs. Without a token, only to this machine.',
    )
    .argument('<image...>', 'images, served as vda, vdb, …, or under a name: NAME=IMAGE')
    .option('--listen <address>', 'PORT or ADDRESS:PORT; port 0 takes a free one', '127.0.0.1:7468')
    .option(
      '--token-file <path>',
      'the token that requests must have (Authorization: Bearer …), in a file',
    )
    .option(
      '--origin <origin>',
      'origin of web pages that may use it, as https://console.example; several by as many options',
      listed,
    )
    .option(
      '--read-only',
      'change nothing: no jobs, and what is read from a base is not kept. For what others have as a base: a disk that was populated meanwhile is another one to them when it is served again',
    )
    .addOption(baseFormat())
    .option('--follow-chain', 'follow the backing files that the base records')
    .option('--json', 'tell where the disks are as JSON')
    .action(async (images, options) => ended(await serve(platform, images, options)));
  addExample(
    serveCommand,
    'millrace serve vm.qcow2',
    'curl -r 0-511 http://127.0.0.1:7468/disks/vda/data',
    'curl -d \'{"nonblock":true}\' http://127.0.0.1:7468/disks/vda/stream',
    'curl http://127.0.0.1:7468/disks/vda/info',
  );

  const abortCommand = program
    .command('abort')
    .description(
      'End the job of a disk that millrace serve has, started there with nonblock. What was copied stays.',
    )
    .argument('<url>', 'http://HOST:PORT/disks/DEVICE, as millrace serve tells it')
    .option('--token-file <path>', 'the token, in a file')
    .option('--json', 'tell how the job stands as JSON')
    .action(async (url, options) => ended(await abort(platform, url, options)));
  addExample(abortCommand, 'millrace abort http://127.0.0.1:7468/disks/vda');
  return program;
}

function addExample(command: Command, ...lines: string[]): void {
  command.addHelpText(
    'after',
    `\n${SIZES}\n\nExample:\n${lines.map((line) => `  ${line}`).join('\n')}`,
  );
}

function baseFormat(): Option {
  return new Option(
    '--base-format <format>',
    "the base's format (default: told by its first bytes)",
  ).choices(['raw', 'qcow2']);
}

function cacheMode(): Option {
  return new Option(
    '-t, --cache <mode>',
    'unsafe: do not wait for the disk; quicker, but a power cut soon after can leave a corrupt image (default: writeback)',
  ).choices(['writeback', 'unsafe']);
}

function outputFormat(): Option {
  return new Option('--output <form>', 'for people or for programs')
    .choices(['human', 'json'])
    .default('human');
}

function wantsJson(options: { output: string; json?: boolean }): boolean {
  return options.json === true || options.output === 'json';
}

function size(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined)
    throw new InvalidArgumentError(
      'It is a number of bytes, or of K, M, G, T (powers of 1024), as in 64K or 1.5G, and less than 8192T.',
    );
  return bytes;
}

/** Of an option that may be given more than once; one that took several values would take the arguments behind it, too. */
function listed(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}

function count(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It is a whole number.');
  return Number(text);
}
