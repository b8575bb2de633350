/**
 * A process of its own that opens images for writing as it is told: `open`, `close`, one message
 * each, each answered by one.
 */

import type { BlockFile } from '../../hosts/api/block.ts';
import { openFile } from '../../hosts/node/file.ts';

export interface Order {
  do: 'open' | 'close';
  path: string;
}
/** `held`: it has it; otherwise why not. */
export interface Answer {
  held: boolean;
  code?: string;
  message?: string;
}

const files: Map<string, BlockFile> = new Map();

process.on('message', async (order: Order) => {
  process.send!(await carryOut(order));
});
process.on('disconnect', () => process.exit());
process.send!({ held: false } satisfies Answer);

async function carryOut(order: Order): Promise<Answer> {
  try {
    if (order.do === 'open') {
      files.set(order.path, await openFile(order.path));
      return { held: true };
    }
    await files.get(order.path)?.close();
    files.delete(order.path);
    return { held: false };
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    return { held: false, code, message };
  }
}
