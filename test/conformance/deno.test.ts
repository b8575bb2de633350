/** The conformance suite on the Deno host, with exactly the permissions that a disk needs. */
import { join } from 'node:path';
import { describeProgram, ROOT } from './program-run.ts';

describeProgram('Deno', (server, folder) => [
  join(ROOT, 'node_modules/.bin/deno'),
  'run',
  '--no-prompt',
  '--cached-only',
  '--quiet',
  `--allow-read=${folder}`,
  `--allow-write=${folder}`,
  `--allow-net=${server.host}`,
  'test/conformance/deno.ts',
  server.origin,
  folder,
]);
