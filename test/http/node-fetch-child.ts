/**
 * Reads each base whole and prints the sum of its bytes, or the error; closes nothing: `node
 * --import tsx node-fetch-child.ts URL…`
 */
import { openHttp } from '../../hosts/node/http.ts';

for (const url of process.argv.slice(2)) {
  try {
    const source = await openHttp(url, { retries: 0 });
    const bytes = new Uint8Array(source.size);
    await source.read(0, bytes);
    console.log(bytes.reduce((total, byte) => total + byte, 0));
  } catch (error) {
    const { code, message } = error as Error & { code: string };
    console.log(code, message);
  }
}
