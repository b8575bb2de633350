/**
 * What a location names on hosts that have files: a path, a file: URL, or an image on a server, by
 * an http: or https: URL or an NBD URI; and how one is told relative to another. It opens nothing,
 * and asks where the process stands only where that matters.
 */
import { MillraceError } from '../api/errors.ts';
import { redactUrl } from '../bases/http/address.ts';
import { isNbdUri } from '../bases/nbd/uri.ts';

/** The path functions of a runtime. */
export interface Paths {
  basename(path: string): string;
  dirname(path: string): string;
  isAbsolute(path: string): boolean;
  join(...parts: string[]): string;
  relative(from: string, to: string): string;
  resolve(path: string): string;
  fileURLToPath(url: string): string;
  /** Without symbolic links, as realpath(3) has it; undefined where that cannot be told. */
  realPath(path: string): string | undefined;
}

/** A URL has a scheme of two letters or more; one letter is a drive. */
const SCHEME = /^([a-z][a-z0-9+.-]+):/i;

export function isHttpUrl(text: string): boolean {
  return /^https?:/i.test(text);
}

/** Whether it is on a server. */
export function isRemote(text: string): boolean {
  return isHttpUrl(text) || isNbdUri(text);
}

/**
 * A path as it is, or of a file: URL (which QEMU also writes without slashes), where an image on a
 * server cannot be.
 * @throws MillraceError `EUNSUPPORTED` for other schemes, `EINVAL` for a file: URL that is no path
 *   here.
 */
export function pathOf(text: string, paths: Paths): string {
  const scheme = SCHEME.exec(text)?.[1].toLowerCase();
  if (scheme === undefined) return text;
  if (isRemote(text))
    throw new MillraceError(
      'EUNSUPPORTED',
      `'${redactUrl(text)}': an overlay is a local file; a URL can be its base, or an image that is only looked at`,
    );
  if (scheme !== 'file')
    throw new MillraceError(
      'EUNSUPPORTED',
      `'${redactUrl(text)}': the scheme '${scheme}:' is not supported; a base is a path, an http: or https: URL, or an NBD URI`,
    );
  if (!/^file:\/\//i.test(text)) return text.slice('file:'.length);
  try {
    return paths.fileURLToPath(text);
  } catch (cause) {
    throw new MillraceError(
      'EINVAL',
      `'${text}' leads to no file here: ${(cause as Error).message}`,
      { cause },
    );
  }
}

/**
 * Where a backing file's name leads that is recorded in the image `from`. A relative one is
 * relative to the folder that the image is really in, as the system takes it and QEMU does: behind
 * a symbolic link, `..` is not what the letters of the path say.
 */
export function resolveBacking(name: string, from: string, paths: Paths): string {
  if (SCHEME.test(name) || paths.isAbsolute(name)) return name;
  if (isHttpUrl(from)) return new URL(name, from).href;
  if (isNbdUri(from))
    throw new MillraceError(
      'EUNSUPPORTED',
      `${from}: its backing file '${name}' is relative to it, which leads nowhere by NBD: give the images of the chain yourself (base)`,
    );
  const folder = paths.dirname(/^file:/i.test(from) ? pathOf(from, paths) : from);
  return asPath(follow(folder, name, paths), paths);
}

/**
 * How a base at a path given by the user is recorded in an overlay: a relative one is relative to
 * the overlay, that of a file: URL is a path as well (QEMU takes what follows the scheme as it is,
 * `%20` and all).
 */
export function recordedBase(location: string, overlay: string, paths: Paths): string {
  if (isNbdUri(location)) return withWholeSocket(location, paths);
  const [base, path] = [location, overlay].map((text) =>
    /^file:/i.test(text) ? pathOf(text, paths) : text,
  );
  if (paths.isAbsolute(base) || (base === location && SCHEME.test(base))) return base;
  const name = byLetters(base, path, paths);
  const found = realPlace(follow(paths.dirname(path), name, paths), paths);
  const wanted = realPlace(base, paths);
  const folder = paths.realPath(paths.dirname(path));
  if (found === wanted || wanted === undefined || folder === undefined) return name;
  return asPath(paths.relative(folder, wanted), paths);
}

/** Programs take a relative socket from where they stand, which is another place each time. */
function withWholeSocket(uri: string, paths: Paths): string {
  return uri.replace(/([?&]socket=)([^&#]*)/, (all, key: string, value: string) => {
    const path = decodeURIComponent(value);
    if (paths.isAbsolute(path) || path.startsWith('\0')) return all;
    return `${key}${encodeURIComponent(paths.resolve(path)).replaceAll('%2F', '/')}`;
  });
}

/** The base as seen from the overlay's folder, if no symbolic link leads elsewhere. */
function byLetters(base: string, overlay: string, paths: Paths): string {
  const [from, to] = [paths.join(paths.dirname(overlay)), paths.join(base)];
  // Below the place where the process stands, wherever that is: it need not be asked, which could
  // need a permission.
  const isBelow = !paths.isAbsolute(from) && ![from, to].some((path) => path.startsWith('..'));
  return asPath(
    isBelow
      ? paths.relative(`/${from}`, `/${to}`)
      : paths.relative(paths.resolve(from), paths.resolve(to)),
    paths,
  );
}

/**
 * `name` as the system follows it from `folder`: `..` leads to what really holds the folder so far.
 * Where the folder's own path has some, that is followed first: joining would take them by the
 * letters.
 */
function follow(folder: string, name: string, paths: Paths): string {
  const parts = folder.split('/');
  const start = paths.isAbsolute(folder) ? '/' : '.';
  const at = parts.includes('..') ? walk(start, parts, paths) : folder;
  return walk(at, name.split('/'), paths);
}

function walk(from: string, parts: readonly string[], paths: Paths): string {
  let at = from;
  for (const part of parts)
    if (part === '..') at = above(at, paths);
    else at = at.endsWith('/..') ? `${at}/${part}` : paths.join(at, part);
  return at;
}

/**
 * By the letters where they say the same; they are what people know. Behind a folder that is not
 * there, or may not be looked at, the system decides: joining would leave such a folder out.
 */
function above(folder: string, paths: Paths): string {
  const byLetters = paths.join(folder, '..');
  const real = paths.realPath(folder);
  if (real === undefined) return `${folder}/..`;
  const holder = paths.dirname(real);
  return paths.realPath(byLetters) === holder ? byLetters : holder;
}

/** The file itself may be a symbolic link, or missing: its folder counts. */
function realPlace(path: string, paths: Paths): string | undefined {
  const folder = paths.realPath(paths.dirname(path));
  return folder === undefined ? undefined : paths.join(folder, paths.basename(path));
}

/**
 * A relative path whose first part has a colon would be taken for a URL, by QEMU whatever stands
 * before the colon.
 */
function asPath(path: string, paths: Paths): string {
  return /^[^/]*:/.test(path) && !paths.isAbsolute(path) ? `./${path}` : path;
}
