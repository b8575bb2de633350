/** `millrace completion`: what a shell needs to complete the command line, made of its commands. */
import type { Command, Option } from 'commander';
import { Argument } from 'commander';
import type { Ended } from './options.ts';
import { addExample } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';

/** Declares `millrace completion`. */
export function declareCompletion(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('completion')
    .description(
      'Print what a shell needs to complete commands and options. In its start-up file:\n  bash: source <(millrace completion bash)\n  zsh:  source <(millrace completion zsh)   (after compinit)\n  fish: millrace completion fish | source',
    )
    .addArgument(new Argument('<shell>').choices(Object.keys(SCRIPTS)))
    .action(async (shell: keyof typeof SCRIPTS) => {
      await platform.stdout.write(SCRIPTS[shell](commandsOf(program)));
      ended(EXIT_OK);
    });
  addExample(command, 'millrace completion bash');
}

/** A command, as shells complete it. */
interface Completed {
  name: string;
  about: string;
  options: { names: string[]; about: string; takes: boolean; choices: readonly string[] }[];
  /** Of its first argument; none where that is a file. */
  choices: readonly string[];
}

function commandsOf(program: Command): Completed[] {
  const commands = program.commands.map((command) => ({
    name: command.name(),
    about: firstLine(command.description()),
    options: [...command.options.filter(({ hidden }) => !hidden).map(optionOf), HELP],
    choices: command.registeredArguments[0]?.argChoices ?? [],
  }));
  const names = commands.map(({ name }) => name);
  return [...commands, { name: 'help', about: 'Explain a command', options: [], choices: names }];
}

const HELP = { names: ['-h', '--help'], about: 'explain the command', takes: false, choices: [] };

function optionOf(option: Option): Completed['options'][number] {
  return {
    names: [option.short, option.long].filter((name) => name !== undefined),
    about: firstLine(option.description),
    takes: option.required || option.optional,
    choices: option.argChoices ?? [],
  };
}

function firstLine(text: string): string {
  return text.split('\n')[0];
}

/** A text for a shell, between single quotes. */
function quoted(text: string, inside = "'\\''"): string {
  return `'${text.replaceAll("'", inside)}'`;
}

function forBash(commands: Completed[]): string {
  const cases = commands.map(({ name, options, choices }) => {
    const words = [...options.flatMap(({ names }) => names), ...choices].join(' ');
    return `    ${name}) words='${words}' ;;`;
  });
  const values = commands.flatMap(({ name, options }) =>
    options
      .filter(({ choices }) => choices.length > 0)
      .map(
        ({ names, choices }) =>
          `    ${names.map((option) => `'${name} ${option}'`).join('|')}) words='${choices.join(' ')}' ;;`,
      ),
  );
  return `_millrace() {
  local current="\${COMP_WORDS[COMP_CWORD]}" words=''
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '${commands.map(({ name }) => name).join(' ')}' -- "$current"))
    return
  fi
  case "\${COMP_WORDS[1]}" in
${cases.join('\n')}
  esac
  case "\${COMP_WORDS[1]} \${COMP_WORDS[COMP_CWORD - 1]}" in
${values.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _millrace millrace
`;
}

function forZsh(commands: Completed[]): string {
  // Brackets and colons part the fields of a specification.
  const plain = (text: string): string => text.replace(/[[\]:\\]/g, ' ');
  const cases = commands.map(({ name, options, choices }) => {
    const specifications = options.flatMap(({ names, about, takes, choices }) => {
      const action = choices.length > 0 ? `(${choices.join(' ')})` : '_files';
      return names.map((name) =>
        quoted(`${name}[${plain(about)}]${takes ? `:value:${action}` : ''}`),
      );
    });
    const rest = choices.length > 0 ? `'*:what:(${choices.join(' ')})'` : "'*:file:_files'";
    return `    ${name}) _arguments ${[...specifications, rest].join(' ')} ;;`;
  });
  return `_millrace() {
  local -a commands
  commands=(${commands.map(({ name, about }) => quoted(`${name}:${plain(about)}`)).join(' ')})
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command="$words[2]"
  shift words
  (( CURRENT-- ))
  case "$command" in
${cases.join('\n')}
  esac
}
compdef _millrace millrace
`;
}

function forFish(commands: Completed[]): string {
  const lines = commands.flatMap(({ name, about, options, choices }) => {
    const inside = `complete -c millrace -n '__fish_seen_subcommand_from ${name}'`;
    return [
      `complete -c millrace -f -n __fish_use_subcommand -a ${name} -d ${quoted(about, "\\'")}`,
      ...(choices.length > 0 ? [`${inside} -f -a '${choices.join(' ')}'`] : []),
      ...options.map(({ names, about, takes, choices }) => {
        const spelled = names.map((name) =>
          name.startsWith('--') ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`,
        );
        const value = choices.length > 0 ? ` -x -a '${choices.join(' ')}'` : takes ? ' -r' : '';
        return `${inside} ${spelled.join(' ')}${value} -d ${quoted(about, "\\'")}`;
      }),
    ];
  });
  return `${lines.join('\n')}\n`;
}

const SCRIPTS = { bash: forBash, zsh: forZsh, fish: forFish };
