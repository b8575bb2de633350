/** What `info` of a URL tells of each container, and in how many requests: counted, not timed. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { millraceHere } from '../cli/program.ts';
import type { Container } from '../fixtures/container-names.ts';
import { CONTAINERS } from '../fixtures/container-names.ts';
import { CONTAINER_PEERS, ova, pack, RANDOM } from '../fixtures/containers.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { NginxServer } from '../support/nginx.ts';
import { startNginx } from '../support/nginx.ts';
import { convertImage } from '../support/qemu.ts';

/** More than a single block of xz that is read as one. */
const SIZE = 9 * 1024 * 1024;
const REQUESTS_MAX = 2;
/** An archive in another container is looked through to its end, which is a block of its own. */
const REQUESTS_NESTED_MAX = 3;
/** They tell their raw disk's size nowhere but at their end, if at all. */
const UNTOLD: readonly Container[] = ['gz', 'bz2'];
const FORMATS: Partial<Record<Container, string[]>> = {
  'one.xz': ['xz'],
  gz: ['gzip'],
  bz2: ['bzip2'],
  zst: ['zstd'],
  'seek.zst': ['zstd'],
  'stored.zip': ['zip'],
  'sparse.tar': ['tar'],
  'gnu.tar': ['tar'],
  'tar.gz': ['gzip', 'tar'],
  'tar.xz': ['xz', 'tar'],
};

interface Told {
  format: string;
  'virtual-size'?: number;
  container: { formats: string[]; member?: string; access: string };
}

describeWithPeer([...CONTAINER_PEERS, 'nginx', 'qemu-img'], 'info of a URL', () => {
  let folder: string;
  let server: NginxServer;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-info-'));
    const raw = join(folder, 'd.raw');
    await writeFile(raw, makeContent('text', 3, SIZE));
    const qcow2 = join(folder, 'd.qcow2');
    await convertImage(raw, qcow2, { from: 'raw', to: 'qcow2' });
    for (const container of CONTAINERS)
      for (const image of [raw, qcow2]) await pack(image, container);
    await ova(qcow2, join(folder, 'machine.ova'));
    server = await startNginx({ root: folder });
  });

  afterAll(async () => {
    await server.stop();
    await rm(folder, { recursive: true });
  });

  async function told(name: string): Promise<Told> {
    const before = (await server.log()).length;
    const { stdout, stderr } = await millraceHere('info', '--json', `${server.url}/${name}`);
    expect(stderr).toBe('');
    const requests = (await server.log()).slice(before);
    expect(requests.length, JSON.stringify(requests)).toBeLessThanOrEqual(
      name.endsWith('tar.xz') ? REQUESTS_NESTED_MAX : REQUESTS_MAX,
    );
    return JSON.parse(stdout);
  }

  it.each(CONTAINERS)('tells %s, what is in it, and how it is read', async (container) => {
    for (const format of ['raw', 'qcow2']) {
      const { 'virtual-size': size, ...rest } = await told(`d.${format}.${container}`);
      const isUntold = format === 'raw' && UNTOLD.includes(container);
      expect(size).toBe(isUntold ? undefined : SIZE);
      expect(rest).toMatchObject({
        format,
        container: {
          formats: FORMATS[container] ?? [container],
          access: RANDOM.includes(container) ? 'random' : 'sequential',
        },
      });
    }
  });

  it('tells the disk of an OVA', async () => {
    expect(await told('machine.ova')).toMatchObject({
      format: 'qcow2',
      'virtual-size': SIZE,
      container: { formats: ['tar'], member: 'd.qcow2', access: 'random' },
    });
  });
});
