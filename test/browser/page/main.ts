/**
 * The page under test: puts the browser host, and what the tests need beside it, where scripts of
 * the tests find them.
 */
import * as millrace from '../../../hosts/browser/index.ts';
import { overWebSocket, serveNbd } from '../../../hosts/faces/nbd/index.ts';
import { cases } from '../../conformance/suite.ts';
import { makeContent } from '../../fixtures/content.ts';

/** Leaves bytes on the site's server under a name. */
async function leave(name: string, bytes: Blob | Uint8Array): Promise<void> {
  const response = await fetch(`/left/${name}`, { method: 'PUT', body: bytes as BodyInit });
  if (!response.ok) throw new Error(`the site answered ${response.status}`);
}

/** What a rejected promise rejected with, as plain data. */
async function refusal(
  promise: Promise<unknown>,
): Promise<{ name: string; code?: string; message: string }> {
  const error = await promise.then(
    () => undefined,
    (error: Error & { code?: string }) => error,
  );
  if (error === undefined) return { name: 'none', message: 'it resolved' };
  return { name: error.name, code: error.code, message: error.message };
}

async function sha256(bytes: Uint8Array): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', bytes as BufferSource);
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Runs a case of the conformance suite; what went wrong, if anything. */
async function runCase(name: string, server: string): Promise<string | undefined> {
  const { createDisk, openDisk, Domain } = millrace;
  const found = cases.find((one) => one.name === name);
  if (!found) return `there is no case '${name}'`;
  try {
    await found.run({
      name: navigator.userAgent,
      createDisk,
      openDisk,
      Domain,
      overlay: (name) => name,
      server,
    });
    return undefined;
  } catch (error) {
    return (error as Error).stack ?? String(error);
  }
}

/** What scripts of the tests are given. */
export type Tools = typeof millrace & {
  overWebSocket: typeof overWebSocket;
  serveNbd: typeof serveNbd;
  makeContent: typeof makeContent;
  leave: typeof leave;
  refusal: typeof refusal;
  sha256: typeof sha256;
  runCase: typeof runCase;
};

const nbd = { overWebSocket, serveNbd };
const tools: Tools = { ...millrace, ...nbd, makeContent, leave, refusal, sha256, runCase };
Object.assign(globalThis, { tools });
