/** What all runtimes with local files share: how they open a place, and what they call it. */
import type { BlockSource } from '../api/block.ts';
import type { Runtime } from '../api/runtime.ts';
import type { Decompressors, UnpackTools } from '../bases/containers/unpack.ts';
import { ROOM_DEFAULT, unpackWith } from '../bases/containers/unpack.ts';
import { isNbdUri } from '../bases/nbd/uri.ts';
import type { Files } from './file.ts';
import type { Paths } from './location.ts';
import { isHttpUrl, isRemote, pathOf, recordedBase, resolveBacking } from './location.ts';
import { scratchFile } from './scratch.ts';

/** What a runtime brings. */
export interface LocalTools {
  files: Files;
  paths: Paths;
  /** The one name of a file, by any path to it. */
  realName(path: string): Promise<string>;
  /** Who has a file open for writing, as far as the system tells. */
  writerAt(path: string): string | undefined;
  openHttp(location: string | URL, how?: { sequential?: boolean }): Promise<BlockSource>;
  openNbd(location: string | URL): Promise<BlockSource>;
  decompressors: Decompressors;
  /** The folder for files that nobody keeps. */
  temporary(): string;
}

/** All of a `Runtime` but its engine and its codec. */
export type LocalRuntime = Required<Omit<Runtime, 'engine' | 'codec' | 'clock' | 'moved'>>;

export function localRuntime(tools: LocalTools): LocalRuntime {
  const { files, paths } = tools;
  const localPath = (location: string): string => pathOf(location, paths);
  const unpackTools: UnpackTools = {
    decompressors: tools.decompressors,
    scratch: (beside) =>
      scratchFile(files, { beside: beside && localPath(beside), temporary: tools.temporary() }),
    room: ROOM_DEFAULT,
  };
  return {
    openOverlay: async (path, { create, ...mode }) =>
      create ? files.makeFile(localPath(path), mode) : files.openFile(localPath(path), mode),
    async openSource(location, as, how) {
      if (isHttpUrl(String(location))) return tools.openHttp(location, how);
      if (isNbdUri(String(location))) return tools.openNbd(location);
      const path = localPath(String(location));
      return as === undefined
        ? files.openFile(path, { readOnly: true })
        : files.openFileSource(path, { shared: as === 'shared' });
    },
    unpack: (source, options) => unpackWith(unpackTools, source, options),
    resolve: (name, from) => resolveBacking(name, from, paths),
    record: (base, overlay) => recordedBase(base, overlay, paths),
    realName: async (location) =>
      isRemote(location) ? location : tools.realName(localPath(location)),
    isRemote,
    isBlockDevice: (location) => files.isBlockDevice(localPath(location)),
    writerOf: (location) => (isRemote(location) ? undefined : tools.writerAt(localPath(location))),
  };
}
