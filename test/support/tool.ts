/**
 * Command lines of the tools that are run by hand, as the simulator: each tells its options by
 * `-h`, and mistakes on one line.
 */
import { Command, InvalidArgumentError } from 'commander';

/** The tool that `npm run NAME` starts; without further words it takes options only. */
export function tool(name: string, description: string): Command {
  return new Command(`npm run ${name} --`).description(description).allowExcessArguments(false);
}

/** An option's value that is a whole number, as a seed. */
export function whole(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('It is a whole number.');
  return Number(text);
}

/** An option's value in minutes, parts of one included. */
export function minutes(text: string): number {
  if (!/^\d{1,6}(\.\d+)?$/.test(text)) throw new InvalidArgumentError('It is a number of minutes.');
  return Number(text);
}
