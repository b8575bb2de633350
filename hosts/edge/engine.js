/**
 * The engine and the decoder of xz as workerd gives them: modules that were compiled before the
 * worker started, since it may not compile later.
 */
import engine from '../engine.wasm';
import xz from '../xz.wasm';

export default engine;
export { xz };
