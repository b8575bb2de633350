/** The disks of one machine under their aliases. */
import { JobStatus } from '../../../hosts/api/job.ts';
import { FIRST_PAGE_BYTES } from '../../../hosts/bases/http/http.ts';
import type { DomainEventDetail } from '../../../hosts/disk/domain.ts';
import type { Case } from '../adapter.ts';
import { equal, ok, rejects } from '../assert.ts';
import { BASE_SIZE, baseContent, CLUSTER } from '../content.ts';
import { Remote } from '../remote.ts';
import { diskOver, newOverlay, reads, record } from '../support.ts';

export const domainCases: readonly Case[] = [
  {
    name: 'stream, info and abort by device',
    async run(host) {
      const vm = new host.Domain();
      const remote = new Remote(host, 'base.raw');
      vm.attach('vda', await diskOver(host, 'base.qcow2'));
      vm.attach('vdb', await host.createDisk({ overlay: newOverlay(host), base: remote.url }));
      try {
        equal(vm.devices, ['vda', 'vdb'], 'devices');
        await remote.behave({ holdFrom: FIRST_PAGE_BYTES });
        await vm.stream('vdb', 0, 0, { nonblock: true });
        const { status, length } = await vm.info('vdb');
        equal([status, length], [JobStatus.ACTIVE, BASE_SIZE], 'status and length of vdb');
        equal((await vm.stream('vda', 0, CLUSTER)).remaining, 0, 'remaining of vda');
        await vm.abort('vdb');
        equal((await vm.info('vdb')).reason, 'aborted', 'reason');
        await remote.behave({});
        await vm.stream('vdb', 0, 0, { nonblock: true, speed: 1 });
        await vm.pause('vdb');
        equal((await vm.info('vdb')).paused, true, 'paused');
        await vm.resume('vdb');
        equal((await vm.info('vdb')).paused, false, 'paused after resume');
        await vm.abort('vdb');
        await rejects(vm.abort('vda'), 'ENOENT');
        await reads(vm.disk('vda'), baseContent());
      } finally {
        await remote.behave({});
        await vm.close();
      }
    },
  },
  {
    name: 'devices that are not there are ENOENT, an alias that is taken is EEXIST',
    async run(host) {
      const vm = new host.Domain();
      await rejects(vm.stream('vda'), 'ENOENT', /vda/);
      await rejects(vm.info('vda'), 'ENOENT');
      await rejects(vm.abort('vda'), 'ENOENT');
      const disk = await diskOver(host, 'base.raw');
      vm.attach('vda', disk);
      await rejects((async () => vm.attach('vda', disk))(), 'EEXIST', /vda/);
      ok(vm.detach('vda') === disk, 'detach gives the disk back');
      await rejects(vm.info('vda'), 'ENOENT');
      await disk.read(0, 1);
      await disk.close();
    },
  },
  {
    name: 'events name the device, and there is one final event a job',
    async run(host) {
      const vm = new host.Domain();
      for (const device of ['vda', 'vdb']) vm.attach(device, await diskOver(host, 'base.raw'));
      const events = record(vm);
      await Promise.all([vm.stream('vda'), vm.stream('vdb')]);
      const last = events
        .filter(({ type }) => type === 'completed')
        .map(({ detail }) => (detail as DomainEventDetail).device);
      equal(last.sort(), ['vda', 'vdb'], 'devices of the completed events');
      await vm.close();
      equal(vm.devices, [], 'devices after close');
    },
  },
  {
    name: 'a speed for the domain is shared by its jobs',
    async run(host) {
      const vm = new host.Domain();
      for (const device of ['vda', 'vdb']) vm.attach(device, await diskOver(host, 'base.raw'));
      await vm.setSpeed(1000);
      await vm.stream('vda', 0, 0, { nonblock: true });
      equal((await vm.info('vda')).speed, 1000, 'speed alone');
      await vm.stream('vdb', 0, 0, { nonblock: true });
      equal(
        [(await vm.info('vda')).speed, (await vm.info('vdb')).speed],
        [500, 500],
        'speeds together',
      );
      await vm.abort('vda');
      await vm.abort('vdb');
      await vm.close();
    },
  },
];
