/**
 * Tokens of requests, which stand in files: on a command line, every user of the machine could read
 * them.
 */
import { MillraceError } from '../../api/errors.ts';
import type { Platform } from './platform.ts';

/** A token is one line; a file larger than this is another one. */
const TOKEN_BYTES_MAX = 4096;

/** @throws MillraceError `EINVAL` for a file that does not hold one. */
export async function readToken(platform: Platform, path: string): Promise<string> {
  const source = await platform.runtime.openSource(path);
  try {
    if (source.size > TOKEN_BYTES_MAX)
      throw new MillraceError(
        'EINVAL',
        `'${path}' has ${source.size} bytes: a token is one line of at most ${TOKEN_BYTES_MAX}`,
      );
    const bytes = new Uint8Array(source.size);
    await source.read(0, bytes);
    const token = new TextDecoder().decode(bytes).trim();
    // What a header can carry as it is.
    if (!/^[\x21-\x7e]+$/.test(token))
      throw new MillraceError(
        'EINVAL',
        `'${path}' does not hold a token: one line of ASCII characters without spaces`,
      );
    return token;
  } finally {
    await source.close();
  }
}
