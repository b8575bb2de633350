// Opening an image: in the format that was asked for, or the one that its first bytes tell.

import { imageOf } from '../core/image';
import { pageGet } from '../core/pages';
import { DONE, Task, WAIT } from '../core/task';
import { Format, formatOf, probed, refuse } from '../formats/format';
import { EUNSUPPORTED, FORMAT_PROBE, R_OTHER_FORMAT } from '../protocol';

/** `offset` is the number of the image, `length` the format; `value` becomes the format found. */
export function runOpen(t: Task): i32 {
  const image = imageOf(<u32>t.offset);
  let format: Format | null = null;
  if (t.length == FORMAT_PROBE) {
    const header = pageGet(t, image.file, 0);
    if (!header) return WAIT;
    format = probed(header, image);
  } else {
    format = formatOf(<u32>t.length);
  }
  if (format === null) {
    refuse(t, EUNSUPPORTED, R_OTHER_FORMAT, image);
    return WAIT;
  }
  const open = format.open;
  if (!open(t, image)) return WAIT;
  image.format = format.number;
  t.value = format.number;
  return DONE;
}
