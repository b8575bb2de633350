/** The decoder of xz as WebAssembly: base64 of what gzip made of it. */
declare const packed: string;
export default packed;
