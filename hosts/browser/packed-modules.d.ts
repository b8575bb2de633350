/** What hosts/build.mjs makes of dist: Z85 of what gzip made. */
declare module 'millrace:worker' {
  const packed: string;
  export default packed;
}
declare module 'millrace:engine' {
  const packed: string;
  export default packed;
}
