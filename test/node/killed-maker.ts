/**
 * Makes an image, and kills itself before its N-th operation on the file system that changes
 * something: argv holds what to make, the number, and the folder. It ends with 0 where there were
 * fewer.
 */
import nodeFs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import process from 'node:process';

const CHANGING = /^(write|ftruncate|open|close|link|rename|rm|unlink|mkdir|fdatasync|fsync)/;

const [what, number, folder] = process.argv.slice(2);
let left = Number(number);
let counts = false;

for (const place of [nodeFs, nodeFs.promises] as unknown as Record<string, unknown>[]) {
  for (const [name, operation] of Object.entries(place)) {
    if (typeof operation !== 'function' || !CHANGING.test(name)) continue;
    const counted = (...given: unknown[]): unknown => {
      if (counts && left-- === 1) process.kill(process.pid, 'SIGKILL');
      return operation.apply(place, given);
    };
    place[name] = Object.assign(counted, operation);
  }
}
syncBuiltinESMExports();

const at = (name: string): string => join(folder, name);
if (what === 'create') {
  const { createDisk } = await import('../../hosts/node/index.ts');
  counts = true;
  const disk = await createDisk({ overlay: at('made'), base: at('base.raw'), baseFormat: 'raw' });
  counts = false;
  await disk.close();
} else {
  const { copyWith } = await import('../../hosts/disk/copy.ts');
  const { nodeRuntime } = await import('../../hosts/node/runtime.ts');
  counts = true;
  await copyWith(nodeRuntime, { overlay: at('made'), base: at('base.raw'), baseFormat: 'raw' }, {});
}
process.exit(0);
