/// <reference types="vite/client" />
/** The files of the build, and what names their contents: put in by vite.config.ts. */
declare const __FILES__: readonly string[];
declare const __BUILD__: string;
