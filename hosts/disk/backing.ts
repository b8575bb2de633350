/** What the header of an image says of its base, and what it is to say. */
import {
  FORMAT_QCOW2,
  IMAGE_FORMAT,
  IMAGE_FORMAT_AT,
  IMAGE_FORMAT_BYTES,
  IMAGE_IDENTITY_AT,
  IMAGE_IDENTITY_BYTES,
  IMAGE_NAME_AT,
  IMAGE_NAME_BYTES,
} from '../../engine/protocol.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageFormat } from '../api/image.ts';
import type { Runtime } from '../api/runtime.ts';
import type { Engine } from './driver/engine.ts';
import { formatName, formatOfWord, isContainerWord, recordedFormat } from './driver/formats.ts';
import type { RecordedIdentity } from './recorded.ts';
import { parseIdentity, textOf } from './recorded.ts';

/** What the header of an image says of its base. */
export interface Backing {
  name: string;
  format?: ImageFormat;
  /** By the word for its format, it is in a container. */
  isPacked: boolean;
  identity?: RecordedIdentity;
}

/** What the HTTP bases say of a 401 or 403, of a URL that was asked for without a query. */
const LACKS_CREDENTIALS = /^https?:[^?]*the server answered 40[13]\b/;

/**
 * Recorded of a base that is an object without a name. By its scheme, no other program takes it for
 * a file.
 */
export const NAMELESS = 'object:unnamed';

/** What an image records as its base, if it has one. */
export function backingOf(engine: Engine, image: number): Backing | undefined {
  const n = engine.imageReport(image);
  const text = (at: number, bytes: number): string => engine.texts.text(image, n[at], n[bytes]);
  const name = text(IMAGE_NAME_AT, IMAGE_NAME_BYTES);
  if (n[IMAGE_FORMAT] !== FORMAT_QCOW2 || !name) return undefined;
  const format = text(IMAGE_FORMAT_AT, IMAGE_FORMAT_BYTES);
  if (format && formatOfWord(format) === undefined)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${engine.name(image)}: its backing file has the format '${format}', which is not supported`,
    );
  return {
    name,
    format: formatOfWord(format),
    isPacked: isContainerWord(format),
    identity: identityOfBase(engine, image),
  };
}

/** What an image records that tells its base from others. */
export function identityOfBase(engine: Engine, image: number): RecordedIdentity | undefined {
  const n = engine.imageReport(image);
  if (n[IMAGE_FORMAT] !== FORMAT_QCOW2) return undefined;
  const name = engine.texts.text(image, n[IMAGE_NAME_AT], n[IMAGE_NAME_BYTES]);
  const text = engine.texts.text(image, n[IMAGE_IDENTITY_AT], n[IMAGE_IDENTITY_BYTES]);
  return parseIdentity(text, name);
}

/** Where the base is that the image `from` records. */
export function placeOf(runtime: Runtime, engine: Engine, { name }: Backing, from: number): string {
  const isNoPlace = name === NAMELESS || name.startsWith('json:');
  const elsewhere = isNoPlace ? runtime.moved?.ofNoPlace() : undefined;
  if (elsewhere !== undefined) return elsewhere;
  if (name === NAMELESS)
    throw new MillraceError(
      'ENOENT',
      `${engine.name(from)}: its base was an object of the program that made it: give it again as the base`,
      { reason: 'base-needed' },
    );
  if (name.startsWith('json:'))
    throw new MillraceError(
      'EUNSUPPORTED',
      `${engine.name(from)}: its backing file is given as 'json:…', which is not supported; name the base explicitly`,
    );
  return runtime.resolve(name, engine.name(from));
}

/**
 * An error of opening what an image records: a server that wants credentials was given none, as a
 * record holds no user, password or query of a URL. One with a query, which was recorded or given
 * anew, has others that are wrong.
 */
export function ofRecorded(error: unknown): unknown {
  if (!(error instanceof MillraceError) || !LACKS_CREDENTIALS.test(error.message)) return error;
  return new MillraceError(
    error.code,
    `${error.message}; an overlay records its base's URL without user, password and query: give the URL whole (base, --from), or a header (--header, --token-file)`,
    { cause: error.cause, offset: error.offset, reason: error.reason },
  );
}

/** Hands over what the overlay's header is to say: that its base is this image, by this name. */
export function recordBacking(
  engine: Engine,
  image: number,
  name: string,
  identity: RecordedIdentity,
): void {
  const found = formatName(engine.imageReport(image)[IMAGE_FORMAT]) ?? 'raw';
  const format = recordedFormat(found, identity.container);
  if (!engine.texts.setBacking(name, format, textOf(identity, name)))
    throw new MillraceError('EINVAL', `the name of the base is too long to be recorded: '${name}'`);
}

/** An image from elsewhere must not make us open what its author chose. */
export function notFollowed(base: string, below: string): MillraceError {
  return new MillraceError(
    'EUNSUPPORTED',
    `${base} has a backing file of its own, '${below}', which is followed only when asked for (followChain, --follow-chain)`,
  );
}
