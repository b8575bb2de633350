/** The decoder of zstd as WebAssembly: base64 of what gzip made of it. */
declare const packed: string;
export default packed;
