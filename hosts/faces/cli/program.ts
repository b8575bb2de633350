/**
 * The command line: which commands there are, and how errors come out: on one line, without a stack
 * trace. What a command is and does stands in the file named after it, which is loaded when the
 * command runs: a program is asked for its version more often than for anything else.
 */
import { Command, CommanderError } from 'commander';
import type { ErrorCode, ErrorReason } from '../../api/errors.ts';
import { MillraceError, messageOf } from '../../api/errors.ts';
import type { Ended } from './options.ts';
import { addExample } from './options.ts';
import type { Output, Platform } from './platform.ts';
import {
  EXIT_BY_SIGNAL,
  EXIT_FAILED,
  EXIT_INTERRUPTED,
  EXIT_OK,
  SIGNALS,
  tell,
} from './platform.ts';
import { reachingRuntime } from './reach.ts';
import { declareReach } from './reach-options.ts';

/** What is said where nothing is asked for. */
const FIRST_STEPS = `Usage: millrace COMMAND …   ('millrace help' lists the commands, 'millrace help COMMAND' explains one)

A machine runs on a small local overlay at once, while its base is copied into it:
  millrace create vm.qcow2 --base https://images.example/debian.qcow2
  millrace serve --nbd unix:/run/vm.sock --stream vda=vm.qcow2
  millrace info vm.qcow2
`;

/** Adds a command to the program. */
type Declare = (program: Command, platform: Platform, ended: Ended) => void;

/** In the order of the help. */
const COMMANDS: Readonly<Record<string, () => Promise<Declare>>> = {
  create: async () => (await import('./create.ts')).declareCreate,
  stream: async () => (await import('./stream.ts')).declareStream,
  info: async () => (await import('./info.ts')).declareInfo,
  map: async () => (await import('./map.ts')).declareMap,
  check: async () => (await import('./check.ts')).declareCheck,
  convert: async () => (await import('./convert.ts')).declareConvert,
  commit: async () => (await import('./commit.ts')).declareCommit,
  rebase: async () => (await import('./rebase.ts')).declareRebase,
  resize: async () => (await import('./resize.ts')).declareResize,
  compare: async () => (await import('./compare.ts')).declareCompare,
  measure: async () => (await import('./measure.ts')).declareMeasure,
  snapshot: async () => (await import('./snapshot.ts')).declareSnapshot,
  serve: async () => (await import('./serve.ts')).declareServe,
  abort: async () => (await import('./served-job.ts')).declareAbort,
  resume: async () => (await import('./served-job.ts')).declareResume,
  profile: async () => (await import('./profile.ts')).declareProfile,
  completion: async () => (await import('./completion.ts')).declareCompletion,
};

/**
 * Runs one command line (the arguments after the program's name) and gives the exit code. It never
 * throws.
 */
export async function runCommandLine(
  platform: Platform,
  given: readonly string[],
): Promise<number> {
  if (given.length === 0) {
    await platform.stderr.write(FIRST_STEPS);
    return EXIT_FAILED;
  }
  const args = asCommanderHasIt(given);
  let exitCode: number = EXIT_OK;
  const { interruptible, exitCodeOf, release } = exitingOnInterrupt(platform);
  try {
    const declares = await Promise.all(neededBy(args).map((name) => COMMANDS[name]()));
    const program = makeProgram(interruptible, declares, (code) => {
      exitCode = code;
    });
    await program.parseAsync(args, { from: 'user' });
    return exitCodeOf(exitCode);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode;
    await (given.includes('--json')
      ? platform.stderr.write(`${JSON.stringify(asJson(error))}\n`)
      : tell(platform, whatWentWrong(error)));
    return EXIT_FAILED;
  } finally {
    release();
  }
}

function whatWentWrong(error: unknown): string {
  if (error instanceof MillraceError) return error.message;
  return `something went wrong that should not: ${messageOf(error)}`;
}

/** An error as programs read it, and as the HTTP handler tells it. */
function asJson(error: unknown): { code: ErrorCode; reason?: ErrorReason; message: string } {
  const { code, reason } = error instanceof MillraceError ? error : { code: 'EIO' as const };
  return { code, ...(reason && { reason }), message: whatWentWrong(error) };
}

/** A platform whose commands end with EXIT_INTERRUPTED, whatever the signal was. */
interface Interruptible {
  interruptible: Platform;
  /** What the shell is told instead: 128 and the number of the first signal. */
  exitCodeOf: (code: number) => number;
  release: () => void;
}

/**
 * Ends the program when the user asks for it, while no command has a handler of its own: a signal
 * that nobody handles ends the process without giving its locks back.
 */
function exitingOnInterrupt(platform: Platform): Interruptible {
  let handlers = 0;
  let first: number | undefined;
  const exitCodeOf = (code: number): number =>
    code === EXIT_INTERRUPTED && first !== undefined ? EXIT_BY_SIGNAL + first : code;
  const exit = (code: number): never => platform.exit(exitCodeOf(code));
  const release = platform.onInterrupt(
    hungUpOnce((signal) => {
      first ??= signal;
      if (handlers === 0) exit(EXIT_INTERRUPTED);
    }),
  );
  const onInterrupt: Platform['onInterrupt'] = (handler) => {
    handlers++;
    const remove = platform.onInterrupt(hungUpOnce(handler));
    return () => {
      handlers--;
      remove();
    };
  };
  return { interruptible: { ...platform, onInterrupt, exit }, exitCodeOf, release };
}

/**
 * A terminal that is closed is told of by the signal, and by each stream that can be written no
 * more: it is no second wish to end.
 */
function hungUpOnce(handler: (signal: number) => void): (signal: number) => void {
  let hungUp = false;
  return (signal) => {
    if (signal === SIGNALS.SIGHUP && hungUp) return;
    hungUp ||= signal === SIGNALS.SIGHUP;
    handler(signal);
  };
}

/**
 * `help COMMAND` is its `-h`; and a size that begins with a minus sign (`resize IMAGE -1G`) is no
 * option.
 */
function asCommanderHasIt(args: readonly string[]): string[] {
  const [first, ...rest] = args;
  if (first === 'help') return [...rest.slice(0, 1), '-h'];
  const last = args.length - 1;
  if (first === 'resize' && /^-\d/.test(args[last]))
    return [...args.slice(0, last), '--', args[last]];
  return [...args];
}

/**
 * The one command that a command line names; all of them for help, for completion, and to tell what
 * was meant.
 */
function neededBy([first = '']: readonly string[]): string[] {
  const isOne = Object.hasOwn(COMMANDS, first) && first !== 'completion';
  return isOne ? [first] : Object.keys(COMMANDS);
}

/** No results, and no bars: errors and warnings go on. */
function beQuiet(platform: { stdout: Output; stderr: Output }): void {
  const { stderr } = platform;
  platform.stdout = { write: () => {}, isTTY: false, columns: undefined };
  platform.stderr = { write: (text) => stderr.write(text), isTTY: false, columns: undefined };
}

function makeProgram(platform: Platform, declares: readonly Declare[], ended: Ended): Command {
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
  const reaching: { -readonly [field in keyof Platform]: Platform[field] } = { ...platform };
  for (const declare of declares) declare(program, reaching, ended);
  const leaves = program.commands.flatMap((command) =>
    command.commands.length > 0 ? command.commands : [command],
  );
  for (const command of leaves) {
    declareReach(command);
    command.option('-q, --quiet', 'tell errors and warnings only');
  }
  program.hook('preAction', async (_, command) => {
    reaching.runtime = await reachingRuntime(platform, command);
    if (command.opts().quiet) beQuiet(reaching);
    command.setOptionValue('quiet', undefined);
  });
  return program;
}
