/**
 * Builds the console into build/web: static files with relative addresses, for any server and any
 * folder of it. The virtual machine's BIOS comes from Debian's package `seabios`, and is copied
 * into the build.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Plugin, Rolldown, UserConfig } from 'vite';
import { defineConfig } from 'vite';
import { FACTS } from './package-facts.mjs';

const SEABIOS = process.env.SEABIOS ?? '/usr/share/seabios';
if (!existsSync(SEABIOS))
  throw new Error(
    `${SEABIOS} is missing, which has the BIOS: apt-get install seabios, or set SEABIOS to a folder with bios.bin and vgabios-stdvga.bin`,
  );

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/**
 * Tells the service worker which files it is to keep, and so makes it a new one whenever they
 * change.
 */
function offline(): Plugin {
  return {
    name: 'offline',
    // After the pages themselves have been put into the bundle.
    enforce: 'post',
    generateBundle(_, bundle) {
      const worker = bundle['sw.js'];
      if (worker?.type !== 'chunk') throw new Error('the service worker is missing from the build');
      const files = Object.keys(bundle)
        .filter((file) => file !== 'sw.js' && !file.endsWith('.map'))
        .sort();
      const hash = createHash('sha256');
      for (const file of files) hash.update(file).update(contentOf(bundle[file]));
      worker.code = worker.code
        .replace('__FILES__', JSON.stringify(files))
        .replace('__BUILD__', JSON.stringify(hash.digest('hex').slice(0, 12)));
    },
  };
}

function contentOf(file: Rolldown.OutputAsset | Rolldown.OutputChunk): string | Uint8Array {
  return file.type === 'chunk' ? file.code : file.source;
}

const config: UserConfig = defineConfig({
  root: here('.'),
  base: './',
  define: FACTS,
  plugins: [offline()],
  resolve: { alias: { seabios: SEABIOS } },
  server: { fs: { allow: [here('..'), SEABIOS] } },
  worker: { format: 'es' },
  build: {
    outDir: here('../build/web'),
    emptyOutDir: true,
    target: 'es2022',
    // What is compiled while it loads is not put into scripts as text.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1024,
    rolldownOptions: {
      input: {
        index: here('index.html'),
        help: here('help.html'),
        sw: here('sw.ts'),
      },
      output: {
        entryFileNames: ({ name }) => (name === 'sw' ? 'sw.js' : 'assets/[name]-[hash].js'),
      },
    },
  },
});

export default config;
