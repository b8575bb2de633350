/** Several disks at once: each goes its own way, and a common speed is shared. */
import { describe, expect, it } from 'vitest';
import type { Disk } from '../../hosts/api/disk.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import { JobStatus } from '../../hosts/api/job.ts';
import { Domain } from '../../hosts/disk/domain.ts';
import { Bench, MIB } from './bench.ts';

async function machine(
  bench: Bench,
  count: number,
  size: number,
): Promise<{ domain: Domain; disks: Disk[]; contents: Uint8Array[] }> {
  const domain = new Domain();
  const disks: Disk[] = [];
  const contents: Uint8Array[] = [];
  for (let number = 0; number < count; number++) {
    contents.push(bench.addBase(size, `base${number}.raw`, number + 1));
    disks.push(
      await bench.create({ overlay: `overlay${number}.qcow2`, base: `base${number}.raw` }),
    );
    domain.attach(`vd${'abcdef'[number]}`, disks[number]);
  }
  return { domain, disks, contents };
}

describe('a domain', () => {
  it('streams all its disks at once, and tells of each by its device', async () => {
    const bench = new Bench();
    const { domain, disks, contents } = await machine(bench, 4, 4 * MIB);
    const told: string[] = [];
    for (const type of ['completed', 'failed'] as const) {
      domain.addEventListener(type, ({ detail }) => told.push(`${detail.device} ${type}`));
    }
    await Promise.all(domain.devices.map((device) => domain.stream(device, 0, 0)));
    expect(told.sort()).toEqual([
      'vda completed',
      'vdb completed',
      'vdc completed',
      'vdd completed',
    ]);
    for (const [number, disk] of disks.entries()) {
      expect(await domain.info(domain.devices[number])).toMatchObject({
        status: JobStatus.COMPLETED,
        remaining: 0,
      });
      expect(Buffer.compare(await disk.read(0, 4 * MIB), contents[number])).toBe(0);
    }
    await domain.close();
  });

  it('lets no slow and no failing base hold up another disk', async () => {
    const bench = new Bench();
    const { domain } = await machine(bench, 3, 4 * MIB);
    bench.holds = ({ file }) => file === 'base0.raw';
    bench.fails = ({ file }) =>
      file === 'base1.raw' ? new MillraceError('EIO', 'injected') : undefined;
    for (const device of domain.devices) await domain.stream(device, 0, 0, { nonblock: true });
    await bench.settle();
    expect(await domain.info('vda')).toMatchObject({
      status: JobStatus.ACTIVE,
      remaining: 4 * MIB,
    });
    expect(await domain.info('vdb')).toMatchObject({ status: JobStatus.FAILED, reason: 'error' });
    expect(await domain.info('vdc')).toMatchObject({ status: JobStatus.COMPLETED, remaining: 0 });
    await domain.abort('vda');
    expect(await domain.info('vda')).toMatchObject({ status: JobStatus.FAILED, reason: 'aborted' });
    await domain.close();
  });

  it('shares a common speed among the jobs that run', async () => {
    const bench = new Bench();
    const { domain, disks } = await machine(bench, 2, 16 * MIB);
    const copied = () =>
      Promise.all(disks.map(async (disk) => disk.size - (await disk.remaining())));
    await domain.setSpeed(2 * MIB);
    for (const device of domain.devices) await domain.stream(device, 0, 0, { nonblock: true });
    await bench.pass(4000);
    const shared = await copied();
    for (const bytes of shared) expect(Math.abs(bytes - 4 * MIB)).toBeLessThanOrEqual(MIB);
    await domain.abort('vda');
    await bench.settle();
    await bench.pass(2000);
    const alone = await copied();
    expect(alone[0]).toBe(shared[0]);
    expect(Math.abs(alone[1] - shared[1] - 4 * MIB)).toBeLessThanOrEqual(MIB);
    await domain.close();
  });

  it('gives no job more than its own speed, what that leaves to the others, and their own back in the end', async () => {
    const bench = new Bench();
    const { domain, disks } = await machine(bench, 3, 16 * MIB);
    const speeds = () => Promise.all(disks.map(async (disk) => (await disk.info()).speed));
    await domain.setSpeed(3000);
    await domain.stream('vda', 0, 0, { nonblock: true, speed: 500 });
    expect(await disks[0].info()).toMatchObject({ speed: 500 });
    await domain.stream('vdb', 0, 0, { nonblock: true });
    // One that was started behind the domain's back is counted as soon as it is heard of.
    await disks[2].stream({ nonblock: true, speed: 2 * MIB });
    await bench.pass(200);
    expect(await speeds()).toEqual([500, 1250, 1250]);
    await domain.pause('vdb');
    await bench.settle();
    expect(await speeds()).toEqual([500, 1250, 2500]);
    await expect(domain.stream('vda', 0, 0, { nonblock: true })).rejects.toMatchObject({
      code: 'EBUSY',
    });
    await domain.resume('vdb');
    await bench.settle();
    expect(await speeds()).toEqual([500, 1250, 1250]);
    await domain.setSpeed(0);
    expect(await speeds()).toEqual([500, 0, 2 * MIB]);
    await domain.close();
  });

  it('refuses what is no speed, whether it has one of its own or not', async () => {
    const bench = new Bench();
    const { domain } = await machine(bench, 1, MIB);
    for (const common of [0, MIB]) {
      await domain.setSpeed(common);
      for (const speed of [NaN, -1]) {
        await expect(domain.stream('vda', 0, 0, { speed })).rejects.toMatchObject({
          code: 'EINVAL',
        });
        await expect(domain.setSpeed(speed)).rejects.toMatchObject({ code: 'EINVAL' });
      }
    }
    await domain.close();
  });

  it('knows its disks by their aliases only', async () => {
    const bench = new Bench();
    const { domain, disks } = await machine(bench, 1, MIB);
    await expect(domain.stream('vdz')).rejects.toMatchObject({ code: 'ENOENT' });
    expect(() => domain.attach('vda', disks[0])).toThrow(MillraceError);
    await domain.close();
  });
});
