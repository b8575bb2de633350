/** What the README shows is what the examples are: each of these is run by a test. */
import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';

const QUOTED: Readonly<Record<string, readonly string[]>> = {
  Deno: ['script-deno.ts'],
  Browsers: ['vite/main.ts'],
  'Edge runtimes': ['edge/worker.ts', 'edge/wrangler.jsonc'],
};

/** As the README shows them: on fewer lines, and with other comments. */
function withoutLayout(text: string): string {
  return text
    .replace(/\/\*.*?\*\//gs, '')
    .replace(/(^|\s)\/\/.*$/gm, '')
    .replace(/\s+/g, '')
    .replace(/[,;](?=[}\])])/g, '');
}

it('quotes the examples in the README as they are', async () => {
  const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
  const sections = readme.matchAll(/<summary>(.*?)<\/summary>(.*?)<\/details>/gs);
  const shown = Array.from(sections, ([, summary, text]) => [
    summary,
    Array.from(text.matchAll(/^```\w+\n(.*?)^```$/gms), ([, block]) => withoutLayout(block)),
  ]);
  // This one is run as it stands there, by the tests of the package.
  const [[first], ...others] = shown;
  expect(first).toBe('Node and Bun');
  const read = async (name: string) =>
    withoutLayout(await readFile(new URL(name, import.meta.url), 'utf8'));
  const files = Object.entries(QUOTED).map(async ([summary, names]) => [
    summary,
    await Promise.all(names.map(read)),
  ]);
  expect(others).toEqual(await Promise.all(files));
});

it('keeps the README to what fits on a first page', async () => {
  const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
  expect(readme.trimEnd().split('\n').length).toBeLessThanOrEqual(140);
});

it('quotes the example of v86 in the README of the faces', async () => {
  const readme = await readFile(new URL('../../hosts/faces/README.md', import.meta.url), 'utf8');
  const example = await readFile(new URL('v86/main.ts', import.meta.url), 'utf8');
  expect(readme).toContain(`\`\`\`ts\n${example}\`\`\``);
});

it('quotes an example in the README of the hosts, too', async () => {
  const readme = await readFile(new URL('../../hosts/README.md', import.meta.url), 'utf8');
  const example = await readFile(new URL('source.ts', import.meta.url), 'utf8');
  expect(Array.from(readme.matchAll(/^```ts\n(.*?)^```$/gms), ([, block]) => block)).toEqual([
    example,
  ]);
});
