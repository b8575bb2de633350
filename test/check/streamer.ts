/**
 * A process that makes an overlay over a base and streams it, slowly enough to be killed on the
 * way. It tells each event of progress.
 */
import { createDisk } from '../../hosts/node/index.ts';

const [overlay, base] = process.argv.slice(2);
const disk = await createDisk({ overlay, base, clusterSize: 4096 });
disk.addEventListener('progress', () => process.stdout.write('progress\n'));
// The guest writes what it reads, so that the disk goes on showing the base; metadata changes
// beside the job, and flushes bring it to disk.
const writing = (async () => {
  for (let i = 0; i < 100; i++) {
    await disk.write(i * 300_000, await disk.read(i * 300_000, 70_000));
    if (i % 3 === 0) await disk.flush();
  }
})();
await disk.stream({ speed: 20 * 1024 * 1024 });
await writing;
await disk.close();
