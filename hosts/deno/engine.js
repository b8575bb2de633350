/**
 * The compiled engine under Deno, as a module: importing it needs no permission, where reading the
 * file would. In JavaScript, because TypeScript does not know imports in the source phase (TC39
 * proposal "source phase imports") yet.
 */
// @ts-self-types="./engine.d.ts"
import source engine from '../engine.wasm';

export default engine;
