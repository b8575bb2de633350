/**
 * One URL may lead to several servers: a mirror manager redirects each request where it likes. What
 * is kept here is where it led to, for a while, and what each of the servers said of the object; a
 * server that nothing is known of is told by its date, or by bytes. One server may stand for
 * several nodes, each with an ETag of its own.
 */
import type { Target } from './address.ts';
import type { Version } from './version.ts';

/**
 * A redirect is followed anew after this time: mirrors come and go. One that has stopped working is
 * asked for at once.
 */
export const REDIRECT_KEPT_MS: number = 5 * 60_000;
/**
 * So many servers of one object are remembered; the one that has been known longest is forgotten
 * first.
 */
const SERVERS_MAX = 32;
/** Nodes behind the name of one server. */
const NODES_MAX = 16;
/**
 * Pieces of the object that a new server is compared by, beside the object's first bytes, and their
 * size.
 */
const SAMPLES_MAX = 8;
const SAMPLE_BYTES = 4096;
/** As much as a first page has. */
const FIRST_SAMPLE_BYTES = 64 * 1024;
/** Meant for one origin: a redirect to another one does not take them along. */
export const ORIGIN_HEADERS: readonly string[] = [
  'Authorization',
  'Proxy-Authorization',
  'Cookie',
  'Host',
];

/** The server of an address, as validators are told apart by. */
export function serverOf(href: string): string {
  return new URL(href).host;
}

/** A redirect that was followed. */
export interface Redirect {
  readonly from: Target;
  readonly href: string;
  readonly untilMs: number;
}

/** Known bytes of the object. */
export interface Sample {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

export class Mirrors {
  /** What each server tells, by its nodes; the last one that answered comes first. */
  readonly #versions = new Map<string, Version[]>();
  #redirect: Redirect | undefined;
  #redirects = false;
  #first: Sample | undefined;
  #samples: Sample[] = [];

  /** Where requests for `target` lead to at present, if that is known and not too old. */
  redirectOf(target: Target): Redirect | undefined {
    const redirect = this.#redirect;
    return redirect?.from === target && performance.now() < redirect.untilMs ? redirect : undefined;
  }

  /** Notes where an answer came from; not from there by a redirect that was kept already. */
  followed(target: Target, href: string): void {
    if (href === target.href) return;
    this.#redirects = true;
    this.#redirect = { from: target, href, untilMs: performance.now() + REDIRECT_KEPT_MS };
  }

  /** It does not work any more: the next request asks the URL itself. */
  forget(redirect: Redirect): void {
    if (this.#redirect === redirect) this.#redirect = undefined;
  }

  /**
   * What the server that a request to `href` reaches has said of the object; undefined too where a
   * redirect may lead elsewhere.
   */
  versionAt(href: string, isDirect: boolean): Version | undefined {
    return this.#redirects && !isDirect ? undefined : this.versionOf(serverOf(href));
  }

  /** What the server has said of the object: the node of that ETag, if it is known. */
  versionOf(server: string, etag?: string): Version | undefined {
    const nodes = this.#versions.get(server);
    return nodes?.find((node) => node.etag === etag) ?? nodes?.[0];
  }

  /** In place of what the same node has said, or the only one. */
  learn(server: string, version: Version): void {
    if (this.#versions.size >= SERVERS_MAX && !this.#versions.has(server))
      this.#versions.delete(this.#versions.keys().next().value!);
    const nodes = this.#versions.get(server) ?? [];
    const others = nodes.length > 1 ? nodes.filter(({ etag }) => etag !== version.etag) : [];
    this.#versions.set(server, [version, ...others]);
  }

  /** Another node answers by the server's name, too. False where there are too many. */
  learnNode(server: string, version: Version): boolean {
    const nodes = this.#versions.get(server) ?? [];
    if (nodes.length >= NODES_MAX) return false;
    this.#versions.set(server, [version, ...nodes]);
    return true;
  }

  /**
   * Keeps the end of a piece that has arrived, unless it holds nothing to tell objects apart by.
   */
  keep(offset: number, bytes: Uint8Array): void {
    if (offset === 0) {
      this.#first ??= { offset, bytes: new Uint8Array(bytes.subarray(0, FIRST_SAMPLE_BYTES)) };
      return;
    }
    // No slice: of Node's Buffer that is a view, which would keep all of what was received.
    const sample = new Uint8Array(bytes.subarray(-SAMPLE_BYTES));
    if (!sample.some((byte) => byte !== 0)) return;
    if (this.#samples.length >= SAMPLES_MAX) this.#samples.shift();
    this.#samples.push({ offset: offset + bytes.length - sample.length, bytes: sample });
  }

  /** Whether it has been come to by a redirect. */
  get areMany(): boolean {
    return this.#redirects;
  }

  /** What is known of the object. */
  samples(): Sample[] {
    return this.#first === undefined ? [...this.#samples] : [this.#first, ...this.#samples];
  }
}
