/** Whether a disk may be used as a caller wants: it is open, can be written, has such a range. */
import { MillraceError } from '../api/errors.ts';

export class DiskAccess {
  /** Bytes of the disk. */
  size: number;
  isClosed = false;
  readonly isReadOnly: boolean;
  readonly #name: string;

  /** `name` is what messages call its overlay. */
  constructor(disk: { size: number; isReadOnly: boolean; name: string }) {
    this.size = disk.size;
    this.isReadOnly = disk.isReadOnly;
    this.#name = disk.name;
  }

  mustBeOpen(): void {
    if (this.isClosed) throw new MillraceError('ECLOSED', 'the disk has been closed');
  }

  mustBeWritable(action: string): void {
    this.mustBeOpen();
    if (this.isReadOnly)
      throw new MillraceError('EROFS', `cannot ${action}: ${this.#name} was opened read-only`);
  }

  mustBeInside(action: string, offset: number, length: number): void {
    const inside =
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(length) &&
      offset >= 0 &&
      length >= 0 &&
      length <= this.size - offset;
    if (!inside)
      throw new MillraceError(
        'EINVAL',
        `cannot ${action} ${length} bytes at ${offset}: the disk has ${this.size} bytes`,
        { offset },
      );
  }
}
