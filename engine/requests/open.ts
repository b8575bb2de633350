// Opening an image: in the format that was asked for, or the one that its first bytes tell.

import { imageOf } from '../core/image';
import { pageGet } from '../core/pages';
import { DONE, Task, WAIT } from '../core/task';
import { Format, formatOf, openTaskOf, probed, refuse } from '../formats/format';
import { EUNSUPPORTED, FORMAT_PROBE, R_OTHER_FORMAT } from '../protocol';

/** `value` becomes the format found. */
export function runOpen(task: Task): i32 {
  const t = openTaskOf(task);
  const image = imageOf(t.image);
  let format: Format | null = null;
  if (t.format == FORMAT_PROBE) {
    const header = pageGet(t, image.file, 0);
    if (!header) return WAIT;
    format = probed(header, image);
  } else {
    format = formatOf(t.format);
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
