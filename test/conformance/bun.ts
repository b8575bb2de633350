/** The conformance suite on the Node host under Bun, as a program: `bun bun.ts SERVER FOLDER`. */
import { createDisk, Domain, openDisk } from '../../hosts/node/index.ts';
import { printOutcomes } from './program.ts';

const [server, folder] = process.argv.slice(2);
await printOutcomes({
  name: 'Bun',
  createDisk,
  openDisk,
  Domain,
  overlay: (name) => `${folder}/${name}`,
  server,
});
