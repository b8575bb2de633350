/** What is used of `pako`: in a bundle, nothing else of it is brought. */
export { Inflate } from 'pako';
