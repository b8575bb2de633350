/** The program of a thread: base64 of what brotli made of it. */
declare const packed: string;
export default packed;
