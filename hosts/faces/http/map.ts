/** The map of a disk over HTTP: its extents as JSON, as they come. */
import type { Extent } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { Ask } from './answer.ts';

/** Text of a map that is handed over at once. */
const MAP_EXTENTS_PER_PIECE = 1000;

/** Answers GET. */
export async function answerMap({ disk, url }: Ask): Promise<Response> {
  const offset = numberOf(url, 'offset') ?? 0;
  const extents = disk
    .map(offset, numberOf(url, 'length'), { depth: numberOf(url, 'depth') })
    [Symbol.asyncIterator]();
  // The first before the answer begins: what is wrong with the range shows in the status.
  const first = await extents.next();
  const body = textStream(mapText(first, extents));
  return new Response(body, {
    headers: { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' },
  });
}

async function* mapText(
  first: IteratorResult<Extent>,
  extents: AsyncIterator<Extent>,
): AsyncGenerator<string> {
  let text = '[';
  let count = 0;
  for (let next = first; !next.done; next = await extents.next()) {
    text += `${count++ === 0 ? '' : ','}${JSON.stringify(next.value)}`;
    if (count % MAP_EXTENTS_PER_PIECE > 0) continue;
    yield text;
    text = '';
  }
  yield `${text}]`;
}

function textStream(texts: AsyncGenerator<string>): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await texts.next();
      if (done) controller.close();
      else controller.enqueue(encoder.encode(value));
    },
    async cancel() {
      await texts.return(undefined);
    },
  });
}

function numberOf(url: URL, name: string): number | undefined {
  const text = url.searchParams.get(name);
  if (text === null) return undefined;
  if (!/^\d{1,16}$/.test(text))
    throw new MillraceError('EINVAL', `${name} '${text}' is not a whole number`);
  return Number(text);
}
