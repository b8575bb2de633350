/**
 * The rooms of the hosts: a module imports from its own room and from those below it, never the
 * other way round.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/**
 * A room's floor: it may import from lower floors only. Rooms of one floor do not know one another.
 */
const FLOORS: Record<string, number> = {
  'hosts/api': 0,
  'engine/protocol.ts': 1,
  'hosts/decoders': 1,
  'hosts/profiles': 1,
  'hosts/disk': 2,
  'hosts/bases': 2,
  'hosts/files': 3,
  'hosts/threads': 3,
  'hosts/faces': 4,
  'hosts/node': 5,
  'hosts/deno': 5,
  'hosts/browser': 5,
  'hosts/edge': 5,
  web: 6,
};

/** What no compiler makes a module of: anyone may have it. */
const DATA = ['hosts/engine.wasm', 'hosts/xz.wasm', 'deno.json'];

/**
 * What `hosts/` holds besides rooms: nothing that is part of a program, but the WebAssembly that
 * is built there.
 */
const LOOSE_FILES = [
  'README.md',
  'build.mjs',
  'decoders.mjs',
  'engine.wasm',
  'served.html.gz',
  'tsconfig.build.json',
  'xz.wasm',
];

const IMPORT =
  /^(?:import|export)\b[^'"`;]*?\bfrom\s*'(\.[^']+)'|^import\s*'(\.[^']+)'|\bimport\(\s*'(\.[^']+)'/gm;

function modules(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true })
    .map((name) => join(folder, String(name)).replaceAll('\\', '/'))
    .filter((path) => /\.[jt]s$/.test(path) && !path.startsWith('web/public/'));
}

function importsOf(source: string): string[] {
  return Array.from(source.matchAll(IMPORT), ([, named, bare, lazy]) => named ?? bare ?? lazy);
}

function roomOf(path: string): string {
  const room = Object.keys(FLOORS).find((room) => path === room || path.startsWith(`${room}/`));
  if (room === undefined) throw new Error(`${path} is in no room`);
  return room;
}

/** Why a module must not import another; undefined where it may. */
function objection(from: string, to: string): string | undefined {
  if (DATA.includes(to)) return undefined;
  const [own, other] = [roomOf(from), roomOf(to)];
  return own === other || FLOORS[other] < FLOORS[own] ? undefined : `${from} imports ${to}`;
}

describe('the rooms of the hosts', () => {
  it('import only from below', () => {
    const found = [...modules('hosts'), ...modules('web')]
      .filter((path) => path !== 'hosts/build.mjs')
      .flatMap((path) =>
        importsOf(readFileSync(join(ROOT, path), 'utf8')).map((name) =>
          objection(path, relative(ROOT, join(ROOT, dirname(path), name)).replaceAll('\\', '/')),
        ),
      );
    expect(found.length).toBeGreaterThan(300);
    expect(found.filter((fault) => fault !== undefined)).toEqual([]);
  });

  it('hold all there is', () => {
    const entries = readdirSync(join(ROOT, 'hosts'), { withFileTypes: true });
    const loose = entries.filter((entry) => !entry.isDirectory()).map(({ name }) => name);
    expect(loose.filter((name) => !LOOSE_FILES.includes(name))).toEqual([]);
    const rooms = entries.filter((entry) => entry.isDirectory()).map(({ name }) => `hosts/${name}`);
    expect(rooms.filter((room) => !(room in FLOORS))).toEqual([]);
  });

  it('would tell an import that goes up, or across', () => {
    const source = "import { a } from '../faces/x.ts';\nexport {\n  b,\n} from '../api/y.ts';\n";
    expect(importsOf(`${source}const c = await import('./z.ts');`)).toEqual([
      '../faces/x.ts',
      '../api/y.ts',
      './z.ts',
    ]);
    expect(objection('hosts/disk/open.ts', 'hosts/api/disk.ts')).toBeUndefined();
    expect(objection('hosts/disk/open.ts', 'engine/protocol.ts')).toBeUndefined();
    expect(objection('hosts/disk/open.ts', 'hosts/files/lock.ts')).toBeDefined();
    expect(objection('hosts/disk/open.ts', 'hosts/bases/blob.ts')).toBeDefined();
    expect(objection('hosts/api/disk.ts', 'engine/protocol.ts')).toBeDefined();
    expect(objection('hosts/deno/file.ts', 'hosts/node/file.ts')).toBeDefined();
    expect(() => objection('hosts/node/main.ts', 'engine/index.ts')).toThrow('no room');
  });
});

/** The engine's folders and loose files, from below; the same rule holds. */
const ENGINE_FLOORS: Record<string, number> = {
  'engine/protocol': 0,
  'engine/limits': 0,
  'engine/core': 1,
  'engine/formats': 2,
  'engine/overlay': 3,
  'engine/data': 4,
  'engine/job': 5,
  'engine/check': 5,
  'engine/requests': 6,
  'engine/step': 7,
  'engine/reports': 7,
  'engine/layout': 8,
  'engine/index': 9,
};

function engineRoomOf(path: string): string {
  const room = Object.keys(ENGINE_FLOORS).find(
    (room) => path === room || path.startsWith(`${room}/`),
  );
  if (room === undefined) throw new Error(`${path} is in no room of the engine`);
  return room;
}

it('the folders of the engine import only from below', () => {
  const found = modules('engine').flatMap((path) =>
    importsOf(readFileSync(join(ROOT, path), 'utf8')).map((name) => {
      const own = engineRoomOf(path.replace(/\.ts$/, ''));
      const other = engineRoomOf(
        relative(ROOT, join(ROOT, dirname(path), name)).replaceAll('\\', '/'),
      );
      return own === other || ENGINE_FLOORS[other] < ENGINE_FLOORS[own]
        ? undefined
        : `${path} imports ${other}`;
    }),
  );
  expect(found.length).toBeGreaterThan(200);
  expect(found.filter((fault) => fault !== undefined)).toEqual([]);
});

it('the engine leaves no answers in exported variables', () => {
  for (const path of modules('engine'))
    expect(readFileSync(join(ROOT, path), 'utf8'), path).not.toMatch(/^export let /m);
});
