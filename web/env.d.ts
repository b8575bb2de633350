/// <reference types="vite/client" />
/** The files of the build, put in by vite.config.ts. */
declare const __FILES__: readonly string[];
