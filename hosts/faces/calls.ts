/** The calls that open disks, over what a runtime brings. */
import type { Library } from '../api/library.ts';
import type { Runtime } from '../api/runtime.ts';
import { commitWith } from '../disk/commit.ts';
import { checkDiskWith, createDiskWith, openDiskWith } from '../disk/open.ts';
import { rebaseWith } from '../disk/rebase.ts';

/** The calls, over what a runtime brings. */
export function libraryOf(runtime: Runtime): Library {
  return {
    createDisk: (options) => createDiskWith(runtime, options),
    openDisk: (options) => openDiskWith(runtime, options),
    checkDisk: (options) => checkDiskWith(runtime, options),
    commitDisk: (options) => commitWith(runtime, options),
    rebaseDisk: (options) => rebaseWith(runtime, options),
  };
}
