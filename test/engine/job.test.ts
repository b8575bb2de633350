/** The job as hosts of any language find it: by the engine's exports alone. */

import { expect, it } from 'vitest';
import { KIND_CREATE, KIND_OPEN, KIND_STREAM } from '../../engine/protocol.ts';
import { Random } from '../fixtures/content.ts';
import { Events } from '../simulator/events.ts';
import { Machine, NO_FAULTS } from '../simulator/machine.ts';
import { loadEngine } from '../simulator/simulate.ts';
import { Storage } from '../simulator/storage.ts';

const MIB = 1 << 20;
const RAW = 1;
const REASON_JOB_ACTIVE = 32;

it('one that runs is not overwritten by another', () => {
  const events = new Events();
  const machine = new Machine(loadEngine(), {
    memory: 8 * MIB,
    overlay: new Storage(),
    bases: [{ bytes: new Uint8Array(4 * MIB).fill(5) }],
    tellsHoles: false,
    clock: events,
    random: new Random(1),
    faults: { ...NO_FAULTS, tears: false, noSpace: false, slow: 1, slowBase: 1, immediate: 0 },
    inflate: () => false,
  });
  let code: number | undefined;
  const ask = (kind: number, offset: number, length: number, argument: number): void => {
    machine.request(kind, offset, length, argument, {
      done: (answer) => void (code = answer.code),
    });
  };
  const run = (...request: Parameters<typeof ask>): void => {
    code = undefined;
    ask(...request);
    while (code === undefined && events.next());
    expect(code).toBe(0);
  };
  const make = (length: number): number =>
    machine.exports.stream(0, length, 0, 0, false, false, 0, false, false);
  run(KIND_OPEN, 1, RAW, 0);
  run(KIND_CREATE, 0, 4 * MIB, 16 + 4 * 256);
  expect(make(MIB)).toBe(0);
  // It was not run: this one takes its place.
  expect(make(0)).toBe(0);
  code = undefined;
  ask(KIND_STREAM, 0, 0, 0);
  for (let i = 0; i < 20; i++) events.next();
  expect([code, make(MIB)]).toEqual([undefined, REASON_JOB_ACTIVE]);
  while (code === undefined && events.next());
  const [status, , , error, , , , , , from, to, remaining] = machine.report(machine.exports.info());
  expect({ code, status, error, from, to, remaining }).toEqual({
    code: 0,
    status: 0,
    error: 0,
    from: 0,
    to: 4 * MIB,
    remaining: 0,
  });
  expect(make(0)).toBe(0);
  machine.stop();
});
