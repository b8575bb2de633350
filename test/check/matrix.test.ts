import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { checkDisk } from '../../hosts/node/index.ts';
import type { MadeImage } from '../fixtures/images.ts';
import { baseKind, baseKinds, overlayKinds } from '../fixtures/images.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { expectSameAsQemu } from './compare.ts';

describeWithPeer(['qemu-img', 'qemu-io'], 'a check of sound images', () => {
  let dir: string;
  let base: MadeImage;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'millrace-check-'));
    base = await baseKind('zlib-mixed').make(dir);
  });
  afterAll(() => rm(dir, { recursive: true }));

  for (const kind of baseKinds) {
    it(`tells of ${kind.name} what QEMU tells`, async () => {
      const { path, format } = await kind.make(dir);
      if (format === 'raw') expect(await checkDisk({ overlay: path })).toBeUndefined();
      else expect(await expectSameAsQemu(path)).toMatchObject({ corruptions: 0, leaks: 0 });
    });
  }

  for (const kind of overlayKinds) {
    it(`tells of ${kind.name} what QEMU tells`, async () => {
      const { path } = await kind.make(dir, {
        location: base.path,
        format: 'qcow2',
        virtualSize: base.virtualSize,
      });
      expect(await expectSameAsQemu(path)).toMatchObject({ corruptions: 0, leaks: 0 });
    });
  }
});
