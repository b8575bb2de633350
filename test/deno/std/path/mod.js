/** Deno's path functions as npm has them, for machines that do not reach JSR; deno.json puts this in the place of jsr:@std/path. */
// @ts-self-types="./mod.d.ts"
export * from 'npm:deno-std@1.4.0/path/mod.js';
