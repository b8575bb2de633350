/** The compiled engine, not instantiated. */
declare const engine: WebAssembly.Module;
export default engine;
/** The compiled decoder of xz. */
export declare const xz: WebAssembly.Module;
