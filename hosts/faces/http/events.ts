/**
 * A disk's events as server-sent events (HTML standard, "Server-sent events"): first `info`, how
 * the job stands, then each event as it comes, with its StreamInfo as JSON. Who connects again
 * after a loss has missed nothing that counts.
 */

import type { Disk } from '../../api/disk.ts';
import { DISK_EVENTS } from '../../api/disk-events.ts';
import type { StreamInfo } from '../../api/job.ts';

/** Proxies end connections that say nothing for half a minute or more. */
const KEEP_ALIVE_MS = 15_000;
/**
 * Events that a client has not taken yet: one that is so far behind is cut off, and told how the
 * job stands when it comes again.
 */
const WAITING_MAX = 256;

/** The answer lasts until the client goes away. */
export function answerEvents(request: Request, disk: Disk): Response {
  const encoder = new TextEncoder();
  let stop = (): void => {};
  const body = new ReadableStream<Uint8Array>({
    async start(controller) {
      const send = (text: string): void => {
        controller.enqueue(encoder.encode(text));
        if (controller.desiredSize! > -WAITING_MAX) return;
        stop();
        controller.close();
      };
      const forward = ({ type, detail }: CustomEvent<StreamInfo>): void =>
        send(eventText(type, detail));
      const timer = setInterval(() => send(': still here\n\n'), KEEP_ALIVE_MS);
      stop = () => {
        clearInterval(timer);
        for (const type of DISK_EVENTS) disk.removeEventListener(type, forward);
      };
      for (const type of DISK_EVENTS) disk.addEventListener(type, forward);
      if (request.signal.aborted) return stop();
      request.signal.addEventListener('abort', stop);
      // Before any job there is nothing to tell.
      const info = await disk.info().catch(() => undefined);
      send(info === undefined ? ': connected\n\n' : eventText('info', info));
    },
    cancel: () => stop(),
  });
  // nginx would keep small answers back until they are large ones.
  return new Response(body, {
    headers: {
      'Content-Type': 'text/event-stream',
      'Cache-Control': 'no-store',
      'X-Accel-Buffering': 'no',
    },
  });
}

function eventText(type: string, info: StreamInfo): string {
  return `event: ${type}\ndata: ${JSON.stringify(info)}\n\n`;
}
