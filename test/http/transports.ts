/**
 * The two ways on which requests travel: the global fetch, as in Deno, browsers and at the edge,
 * and node:http, as under Node.
 */
import { describe } from 'vitest';
import { openHttp as overFetch } from '../../hosts/bases/http/http.ts';
import { openHttp as overNode } from '../../hosts/node/http.ts';

export type OpenHttp = typeof overFetch;

/** Runs the cases over each of them: what a base does must not depend on the way. */
export function eachTransport(cases: (openHttp: OpenHttp) => void): void {
  describe.each([
    ['fetch', overFetch],
    ['node:http', overNode],
  ] as const)('over %s', (_, openHttp) => cases(openHttp));
}
