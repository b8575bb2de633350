/** What is used of `fflate`: in a bundle, nothing else of it is brought. */
export { inflateSync } from 'fflate';
