/** What the pages tell of the package that they come from, as constants for a bundler. */
import { readFileSync } from 'node:fs';

const { version, repository } = JSON.parse(
  readFileSync(new URL('../package.json', import.meta.url), 'utf8'),
);
const url = (typeof repository === 'object' ? repository.url : repository) ?? '';

/** @type {Record<string, string>} */
export const FACTS = {
  __VERSION__: JSON.stringify(version),
  __REPOSITORY__: JSON.stringify(url.replace(/^git\+/, '').replace(/\.git$/, '')),
};
