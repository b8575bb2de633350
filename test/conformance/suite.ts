/**
 * All cases of the conformance suite. A runner gives each of them an adapter of its host; a case
 * takes well under a second.
 */
import type { Case } from './adapter.ts';
import { baseCases } from './cases/bases.ts';
import { containerCases } from './cases/containers.ts';
import { dataCases } from './cases/data.ts';
import { domainCases } from './cases/domain.ts';
import { failureCases } from './cases/failures.ts';
import { lifecycleCases } from './cases/lifecycle.ts';
import { mapCases } from './cases/map.ts';
import { objectCases } from './cases/objects.ts';
import { optionCases } from './cases/options.ts';
import { profileCases } from './cases/profiles.ts';
import { streamCases } from './cases/stream.ts';
import { viewCases } from './cases/views.ts';

export const cases: readonly Case[] = [
  ...prefixed('data', dataCases),
  ...prefixed('bases', baseCases),
  ...prefixed('containers', containerCases),
  ...prefixed('stream', streamCases),
  ...prefixed('failures', failureCases),
  ...prefixed('lifecycle', lifecycleCases),
  ...prefixed('domain', domainCases),
  ...prefixed('map', mapCases),
  ...prefixed('objects', objectCases),
  ...prefixed('options', optionCases),
  ...prefixed('profiles', profileCases),
  ...prefixed('views', viewCases),
];

function prefixed(subject: string, list: readonly Case[]): Case[] {
  return list.map(({ name, run }) => ({ name: `${subject}: ${name}`, run }));
}
