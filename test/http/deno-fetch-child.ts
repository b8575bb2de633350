/** As node-fetch-child.ts, with what Deno has: `deno run --allow-net deno-fetch-child.ts URL…` */
import { openHttp } from '../../hosts/deno/http.ts';

const { args } = (globalThis as unknown as { Deno: { args: string[] } }).Deno;
for (const url of args) {
  try {
    const source = await openHttp(url, { retries: 0 });
    const bytes = new Uint8Array(source.size);
    await source.read(0, bytes);
    console.log(bytes.reduce((total, byte) => total + byte, 0));
    await source.close();
  } catch (error) {
    const { code, message } = error as Error & { code: string };
    console.log(code, message);
  }
}
