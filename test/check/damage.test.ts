import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { checkDisk, MillraceError } from '../../hosts/node/index.ts';
import { Random } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check } from '../support/qemu.ts';
import { expectNoLessThanQemu, expectSameAsQemu } from './compare.ts';
import { damages, spoil } from './damage.ts';
import { makeLarge, SpoiledImages } from './spoiled.ts';

const MIB = 1024 * 1024;

describeWithPeer(['qemu-img', 'qemu-io'], 'a check of damaged images', () => {
  let images: SpoiledImages;

  beforeAll(async () => {
    images = await SpoiledImages.make();
  }, 120_000);
  afterAll(() => images.remove());

  for (const name of Object.keys(damages)) {
    it(`finds of ${name} what QEMU finds`, async () => {
      for await (const { path, label } of images.spoiledBy(name, 3)) {
        const { report } = await check(path);
        // Where QEMU gives up, so may we, by name; but we may also go on.
        if (report === undefined)
          await checkDisk({ overlay: path }).catch((error) =>
            expect(error).toBeInstanceOf(MillraceError),
          );
        else if (name.startsWith('a file that is cut')) await expectNoLessThanQemu(path, label);
        else await expectSameAsQemu(path, label);
      }
    }, 120_000);
  }

  it('finds in an image larger than what it counts at once what QEMU finds', async () => {
    const path = join(images.dir, 'large.qcow2');
    await makeLarge(path);
    const seeds = new Random(1);
    for (const name of [
      'a refcount of 0',
      'a data entry in a refcount block',
      'a data entry with reserved bits',
    ])
      await spoil(path, damages[name], seeds);
    const found = await expectSameAsQemu(path, path, 8 * MIB);
    expect(found['image-end-offset']).toBeGreaterThan(1024 * MIB);
    expect(found.corruptions).toBeGreaterThan(4);
  });
});
