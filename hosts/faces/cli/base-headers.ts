/** What is sent to the servers of bases, and to which. */
import { MillraceError } from '../../api/errors.ts';
import { isHttpUrl } from '../../files/location.ts';
import type { Platform } from './platform.ts';
import { readToken } from './token.ts';

/** Gives the headers for a URL. */
export type HeadersTo = (href: string) => Record<string, string>;

export interface BaseHeaders {
  headersTo: HeadersTo;
  /** An image of this URL is about to be opened. */
  opened(href: string): void;
}

/** What a command line says of servers. */
interface Told {
  /** What it names: paths and URLs. */
  places: readonly string[];
  header: readonly string[];
  tokenFile: string | undefined;
}

/**
 * Headers go to the servers of the URLs that the command line names; if it names none, to that of
 * the first one that is `opened`: an image must not choose to whom a token is sent.
 */
export async function baseHeaders(
  platform: Platform,
  { places, header, tokenFile }: Told,
): Promise<BaseHeaders> {
  const headers = headersOf(header);
  if (tokenFile !== undefined)
    headers.Authorization = `Bearer ${await readToken(platform, tokenFile)}`;
  const origins = new Set(
    places
      .map(withoutDevice)
      .filter((place) => isHttpUrl(place) && URL.canParse(place))
      .map(originOf),
  );
  return {
    headersTo: (href) => (origins.has(originOf(href)) ? headers : {}),
    opened(href) {
      if (origins.size === 0) origins.add(originOf(href));
    },
  };
}

function originOf(href: string): string {
  return new URL(href).origin;
}

function withoutDevice(text: string): string {
  return text.replace(/^[a-z][a-z0-9_-]{0,31}=(?=https?:)/, '');
}

/**
 * @throws MillraceError `EINVAL` for what is no header; its value, which may be a secret, is not
 * repeated.
 */
function headersOf(lines: readonly string[]): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const [, name, value] = /^([!#$%&'*+.^_`|~0-9a-z-]+):[ \t]*([\x20-\x7e]*)$/i.exec(line) ?? [];
    if (name === undefined)
      throw new MillraceError('EINVAL', "--header is a line of the form 'Name: value', in ASCII");
    headers[name] = value.trim();
  }
  return headers;
}
