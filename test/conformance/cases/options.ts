/** Options that do not exist are refused by every call that takes some, with what was meant. */
import type { Disk } from '../../../hosts/api/disk.ts';
import type { Case } from '../adapter.ts';
import { equal, rejects } from '../assert.ts';
import { CLUSTER, MIB } from '../content.ts';
import { newOverlay, using } from '../support.ts';

/** As a caller without types gives them. */
const misspelt = (options: object): never => options as never;

/** The calls of an open disk, each with an option that is off by a letter or two. */
const CALLS: Record<string, (disk: Disk) => Promise<unknown>> = {
  "stream has no option 'onErorr': did you mean 'onError'?": (disk) =>
    disk.stream(misspelt({ onErorr: 'stop' })),
  "resize has no option 'shrnk': did you mean 'shrink'?": (disk) =>
    disk.resize(MIB / 2, misspelt({ shrnk: true })),
  "map has no option 'deph': did you mean 'depth'?": (disk) =>
    disk
      .map(0, CLUSTER, misspelt({ deph: 1 }))
      [Symbol.asyncIterator]()
      .next(),
  "check has no option 'repare': did you mean 'repair'?": (disk) =>
    disk.check(misspelt({ repare: 'all' })),
};

async function refuses(message: string, call: () => Promise<unknown>): Promise<void> {
  const error = await rejects(call(), 'EINVAL');
  equal(error.message, message, 'message');
}

export const optionCases: readonly Case[] = [
  {
    name: 'the calls of a disk and of a domain refuse what they have no option for',
    run: (host) =>
      using(host.createDisk({ overlay: newOverlay(host), size: MIB }), async (disk) => {
        for (const [message, call] of Object.entries(CALLS))
          await refuses(message, () => call(disk));
        equal(disk.size, MIB, 'size');
        const vm = new host.Domain();
        vm.attach('vda', disk);
        await refuses("stream has no option 'spede': did you mean 'speed'?", () =>
          vm.stream('vda', 0, 0, misspelt({ spede: 1 })),
        );
        await rejects(vm.stream('vda', 0, 0, misspelt({ offset: CLUSTER })), 'EINVAL');
        await rejects(disk.info(), 'ENOENT');
        vm.detach('vda');
      }),
  },
];
