/** `millrace abort` and `resume`: of the job of a disk that `millrace serve` has. */
import type { Command } from 'commander';
import type { ErrorReason } from '../../api/errors.ts';
import { MillraceError } from '../../api/errors.ts';
import type { StreamInfo } from '../../api/job.ts';
import { redactUrl } from '../../bases/http/address.ts';
import type { Ended } from './options.ts';
import { addExample } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';
import { formatExactly } from './sizes.ts';
import { readToken } from './token.ts';

/** What is asked of the job, and what is said when it has been done. */
const ACTS = {
  abort: {
    description:
      'End the job of a disk that millrace serve has, started there with nonblock. What was copied stays.',
    done: 'aborted',
  },
  resume: {
    description:
      'Go on with the paused job of a disk that millrace serve has: one that was paused, or has paused itself by an error.',
    done: 'resumed',
  },
} as const;

/** Declares `millrace abort`. */
export function declareAbort(program: Command, platform: Platform, ended: Ended): void {
  declare('abort', program, platform, ended);
}

/** Declares `millrace resume`. */
export function declareResume(program: Command, platform: Platform, ended: Ended): void {
  declare('resume', program, platform, ended);
}

function declare(act: keyof typeof ACTS, program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command(act)
    .description(ACTS[act].description)
    .argument('<url>', 'http://HOST:PORT/disks/DEVICE, as millrace serve tells it')
    .option('--token-file <path>', 'the token, in a file')
    .option('--json', 'tell how the job stands as JSON')
    .action(async (url, options) => ended(await ask(act, platform, url, options)));
  addExample(command, `millrace ${act} http://127.0.0.1:7468/disks/vda`);
}

/** Asks it of a served disk, given as `http://HOST:PORT/disks/DEVICE`. */
async function ask(
  act: keyof typeof ACTS,
  platform: Platform,
  location: string,
  options: { tokenFile?: string; json?: boolean },
): Promise<number> {
  const url = urlOf(location);
  const headers = new Headers();
  if (options.tokenFile !== undefined)
    headers.set('Authorization', `Bearer ${await readToken(platform, options.tokenFile)}`);
  const response = await fetch(`${url.href.replace(/\/$/, '')}/${act}`, {
    method: 'POST',
    headers,
  }).catch((cause) => {
    throw new MillraceError('EIO', `cannot reach ${url.href}: see that millrace serve runs there`, {
      cause,
    });
  });
  const told = (await response.json().catch(() => undefined)) as
    | (StreamInfo & Partial<Pick<MillraceError, 'code' | 'message'>> & { reason?: ErrorReason })
    | undefined;
  if (!response.ok)
    throw new MillraceError(
      told?.code ?? 'EIO',
      `${url.href}: ${told?.message ?? `it answered ${response.status}`}`,
      { reason: told?.reason },
    );
  if (told === undefined) throw new MillraceError('EIO', `${url.href} is not served by millrace`);
  await platform.stdout.write(
    options.json
      ? `${JSON.stringify(told)}\n`
      : `${url.href}: ${ACTS[act].done}, ${formatExactly(told.remaining)} left\n`,
  );
  return EXIT_OK;
}

function urlOf(location: string): URL {
  const url = URL.canParse(location) ? new URL(location) : undefined;
  // Nothing else in it would be sent.
  const isBare = url?.href === `${url?.origin}${url?.pathname}`;
  if (url && isBare && /^https?:$/.test(url.protocol) && /^\/disks\/[^/]+\/?$/.test(url.pathname))
    return url;
  throw new MillraceError(
    'EINVAL',
    `'${redactUrl(location)}' is not the URL of a served disk: http://HOST:PORT/disks/DEVICE, as millrace serve tells it`,
  );
}
