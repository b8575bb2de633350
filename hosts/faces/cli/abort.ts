/** `millrace abort`: ends the job of a disk that `millrace serve` has. */
import type { Command } from 'commander';
import type { StreamInfo } from '../../api/disk.ts';
import type { ErrorReason } from '../../api/errors.ts';
import { MillraceError } from '../../api/errors.ts';
import { redactUrl } from '../../bases/http/address.ts';
import type { Ended } from './options.ts';
import { addExample } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_OK } from './platform.ts';
import { formatExactly } from './sizes.ts';
import { readToken } from './token.ts';

/** Declares `millrace abort`. */
export function declareAbort(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('abort')
    .description(
      'End the job of a disk that millrace serve has, started there with nonblock. What was copied stays.',
    )
    .argument('<url>', 'http://HOST:PORT/disks/DEVICE, as millrace serve tells it')
    .option('--token-file <path>', 'the token, in a file')
    .option('--json', 'tell how the job stands as JSON')
    .action(async (url, options) => ended(await abort(platform, url, options)));
  addExample(command, 'millrace abort http://127.0.0.1:7468/disks/vda');
}

/** Ends the job of a served disk, given as `http://HOST:PORT/disks/DEVICE`. */
export async function abort(
  platform: Platform,
  location: string,
  options: { tokenFile?: string; json?: boolean },
): Promise<number> {
  const url = urlOf(location);
  const headers = new Headers();
  if (options.tokenFile !== undefined)
    headers.set('Authorization', `Bearer ${await readToken(platform, options.tokenFile)}`);
  const response = await fetch(`${url.href.replace(/\/$/, '')}/abort`, {
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
      : `${url.href}: aborted, ${formatExactly(told.remaining)} left\n`,
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
