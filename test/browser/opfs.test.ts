/** A flush that failed in the browser's storage; no browser fails one on order. */
import { expect, it } from 'vitest';
import { OpfsFile } from '../../hosts/browser/opfs-file.ts';

it('once a flush has failed, later ones fail too', () => {
  let flushes = 0;
  const handle = {
    read: () => 0,
    write: () => 0,
    getSize: () => 0,
    truncate() {},
    close() {},
    flush() {
      if (flushes++ === 0) throw new DOMException('the device has gone', 'UnknownError');
    },
  };
  const file = new OpfsFile('d', handle, { cache: 'writeback' });
  expect(() => file.flush()).toThrow('the device has gone');
  expect(() => file.flush()).toThrow('the device has gone');
  expect(flushes).toBe(1);
  new OpfsFile('d', handle, { cache: 'unsafe' }).flush();
  expect(flushes).toBe(1);
});
