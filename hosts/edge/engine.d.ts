/** The compiled engine, not instantiated. */
declare const engine: WebAssembly.Module;
export default engine;
