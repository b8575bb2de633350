/**
 * Runs the suite as a program: a line of JSON for each case on standard output, read by
 * program-run.ts.
 */
import type { Adapter } from './adapter.ts';
import { cases } from './suite.ts';

/** How one case ended. */
export interface Outcome {
  name: string;
  /** What was wrong; undefined when nothing was. */
  error?: string;
}

/** Far more than a case takes: one that hangs is not to hold up those behind it. */
const CASE_MS_MAX = 20_000;

/** Runs all cases on a host, one after another. */
export async function* outcomes(host: Adapter): AsyncGenerator<Outcome> {
  for (const { name, run } of cases) {
    yield await inTime(run(host)).then(
      () => ({ name }),
      (error: Error) => ({ name, error: error.stack ?? String(error) }),
    );
  }
}

async function inTime(run: Promise<void>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`it hangs: nothing came for ${CASE_MS_MAX} ms`)),
      CASE_MS_MAX,
    );
  });
  await Promise.race([run, late]).finally(() => clearTimeout(timer));
}

export async function printOutcomes(host: Adapter): Promise<void> {
  for await (const outcome of outcomes(host)) console.log(JSON.stringify(outcome));
}
