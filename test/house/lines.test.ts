/**
 * Lines have 100 columns. The formatter wraps code; it leaves comments as they are, and cannot part
 * a text: only a string, a template or a regular expression may be longer, so that it is found by a
 * search for it, and a URL in a comment.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const FOLDERS = ['engine', 'hosts', 'web', 'test'];
const COLUMNS = 100;

/** Comments, and what is not parted: strings, templates, and regular expressions. */
const PIECE =
  /(?<comment>\/\*[\s\S]*?\*\/|\/\/[^\n]*)|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\[\s\S]|[^`\\])*`|(?<=[(,=:[!&|?{};>]\s*|\breturn\s)\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\//g;

function sources(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true })
    .map((name) => join(folder, String(name)).replaceAll('\\', '/'))
    .filter((path) => path.endsWith('.ts') && !path.includes('node_modules/'))
    .filter((path) => !path.startsWith('web/public/'));
}

/** A comment's line that has one word only, as a URL is one. */
function isOneWord(line: string): boolean {
  return /^\s*(?:\/\/|\/?\*+)?\s*\S+(?:\s*\*\/)?$/.test(line);
}

/** The numbers of the lines, from 1, that are too long and could be wrapped. */
function longLines(source: string): number[] {
  const pieces = Array.from(source.matchAll(PIECE), (match) => ({
    from: match.index,
    to: match.index + match[0].length,
    isComment: match.groups!.comment !== undefined,
  }));
  const found: number[] = [];
  let from = 0;
  for (const [index, line] of source.split('\n').entries()) {
    const to = from + line.length;
    const on = pieces.filter((piece) => piece.from < to && piece.to > from);
    const isText = on.some(({ isComment }) => !isComment);
    const isComment = on.some(({ isComment }) => isComment);
    const mayBeLong = isText || (isComment && isOneWord(line));
    if ([...line].length > COLUMNS && !mayBeLong) found.push(index + 1);
    from = to + 1;
  }
  return found;
}

it('have 100 columns, but for what cannot be wrapped', () => {
  const paths = FOLDERS.flatMap(sources);
  expect(paths.length).toBeGreaterThan(600);
  const found = paths.flatMap((path) =>
    longLines(readFileSync(join(ROOT, path), 'utf8')).map((line) => `${path}:${line}`),
  );
  expect(found).toEqual([]);
});

it('that are longer are told, unless they hold a text', () => {
  const long = 'word '.repeat(24);
  expect(longLines(`// ${long}\n/** ${long}*/\n/**\n * ${long}\n */\n`)).toEqual([1, 2, 4]);
  expect(longLines(`const a = f(${'a, '.repeat(40)}b);\n`)).toEqual([1]);
  expect(longLines(`tell('${long}');\ntell(\`a\n${long}\`);\nconst a = /${long}/;\n`)).toEqual([]);
  expect(longLines(`// it's a quotient\nconst a = 1 / 2; // ${long}\n`)).toEqual([2]);
  expect(longLines(`// https://example.org/${'a'.repeat(90)}\n`)).toEqual([]);
});
