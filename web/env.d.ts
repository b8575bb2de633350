/// <reference types="vite/client" />
/**
 * Put in by what builds the pages, from package.json; the repository is empty where it names none.
 */
declare const __VERSION__: string;
declare const __REPOSITORY__: string;
/** The files of the console's build, and what names their contents: put in by vite.config.ts. */
declare const __FILES__: readonly string[];
declare const __BUILD__: string;
