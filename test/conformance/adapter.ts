/**
 * What a host brings to the conformance suite, and what a case is. Everything in this folder but
 * the runners (`*.test.ts`) and the server of the fixtures uses web-standard globals only: the same
 * cases run in Node, Deno, Bun, browsers and workerd.
 */
import type { Disk } from '../../hosts/api/disk.ts';
import type { CreateOptions, OpenOptions } from '../../hosts/api/open.ts';
import type { Domain } from '../../hosts/disk/domain.ts';

/** A host under test. */
export interface Adapter {
  /** What messages call it. */
  readonly name: string;
  createDisk(options: CreateOptions): Promise<Disk>;
  openDisk(options: OpenOptions): Promise<Disk>;
  readonly Domain: new () => Domain;
  /**
   * Where an overlay of this name is kept, as `createDisk` and `openDisk` take it: nothing is there
   * yet, and what is made there stays.
   */
  overlay(name: string): string;
  /** Origin of the server of the fixtures (server.ts), without a slash at its end. */
  readonly server: string;
}

/**
 * One statement of the contract, shown on a host: `run` resolves when it holds there and throws
 * when it does not.
 */
export interface Case {
  readonly name: string;
  run(host: Adapter): Promise<void>;
}
