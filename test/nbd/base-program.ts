/**
 * A base by NBD on the runtime that runs this, Deno or Bun: what of it is read and streamed, as a
 * line of JSON. Arguments: the folder for the overlay, then URIs.
 */
import { createHash } from 'node:crypto';
import process from 'node:process';

const isDeno = 'Deno' in globalThis;
const { createDisk, openNbd } = isDeno
  ? await import('../../hosts/deno/index.ts')
  : await import('../../hosts/node/index.ts');

const [folder, ...uris] = process.argv.slice(2);
const results: unknown[] = [];
for (const [index, uri] of uris.entries()) {
  try {
    results.push(await outcomeOf(uri, `${folder}/${isDeno ? 'deno' : 'bun'}-${index}.qcow2`));
  } catch (error) {
    results.push(String((error as Error).message));
  }
}
console.log(JSON.stringify(results));
process.exit(0);

async function outcomeOf(uri: string, overlay: string): Promise<object> {
  const source = await openNbd(uri);
  const bytes = new Uint8Array(source.size);
  await source.read(0, bytes);
  await source.close();
  const disk = await createDisk({ overlay, base: uri, baseFormat: 'raw' });
  const { remaining } = await disk.stream();
  const streamed = await disk.read(0, source.size);
  await disk.close();
  return { read: digest(bytes), streamed: digest(streamed), remaining };
}

function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
