/** The conformance suite on the Node host, unchanged, under Bun. */
import { join } from 'node:path';
import { describeProgram, ROOT } from './program-run.ts';

describeProgram('Bun', (server, folder) => [
  join(ROOT, 'node_modules/.bin/bun'),
  'test/conformance/bun.ts',
  server.origin,
  folder,
]);
