/** The conformance suite on the Deno host, as a program: `deno run … deno.ts SERVER FOLDER`. */
import { createDisk, Domain, openDisk } from '../../hosts/deno/index.ts';
import { printOutcomes } from './program.ts';

const [server, folder] = Deno.args;
await printOutcomes({
  name: 'Deno',
  createDisk,
  openDisk,
  Domain,
  overlay: (name) => `${folder}/${name}`,
  server,
});
