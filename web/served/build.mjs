/**
 * Builds the page that `millrace serve` answers at `/`: one file with its styles and its script in
 * it, so that nothing else has to be served, or may be loaded.
 */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { FACTS } from '../package-facts.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** @returns {Promise<string>} The HTML. */
export async function servedPage() {
  const { outputFiles } = await build({
    entryPoints: [here('main.ts')],
    bundle: true,
    minify: true,
    write: false,
    outdir: here('.'),
    format: 'esm',
    target: 'es2022',
    define: FACTS,
    logLevel: 'warning',
  });
  const text = (ending) => outputFiles.find(({ path }) => path.endsWith(ending)).text.trim();
  const logo = (await readFile(here('../icon.svg'), 'utf8')).trim();
  const parts = {
    ICON: encodeURIComponent(logo),
    LOGO: logo.replace('<svg ', '<svg width="24" height="24" aria-hidden="true" '),
    STYLE: text('.css'),
    SCRIPT: text('.js'),
  };
  const html = await readFile(here('index.html'), 'utf8');
  return html.replace(/\b(ICON|LOGO|STYLE|SCRIPT)\b/g, (name) => parts[name]);
}
