/**
 * The compiled engine as workerd gives it: a module that was compiled before the worker started,
 * since it may not compile later.
 */
import engine from '../engine.wasm';

export default engine;
