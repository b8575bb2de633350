/** Deno's assertions as npm has them, for machines that do not reach JSR; deno.json puts this in the place of jsr:@std/assert. */
// @ts-self-types="./mod.d.ts"
export * from 'npm:deno-std@1.4.0/assert/mod.js';
