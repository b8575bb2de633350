/**
 * QEMU's own programs as functions: qemu-img and qemu-io to make, write, check and compare images.
 * Nothing here knows an image format: what it says is what QEMU says.
 */
import type { RunOptions } from './run.ts';
import { run } from './run.ts';

/** Formats as QEMU names them; `undefined` lets it probe. */
export type QemuFormat = 'raw' | 'qcow2' | 'vmdk' | 'vpc' | 'vhdx' | 'vdi' | 'qed' | 'parallels';

/** Runs qemu-img and gives its output. @throws when it fails. */
export async function qemuImg(args: readonly string[], options: RunOptions = {}): Promise<string> {
  return (await run('qemu-img', args, options)).stdout;
}

export interface CreateImageOptions {
  format?: QemuFormat;
  /** Bytes; may be left out with a base, whose size it then has. */
  size?: number;
  /** Path or URL. */
  base?: string;
  baseFormat?: QemuFormat;
  /** Record the base without opening it, for one that is not there yet; `size` is then needed. */
  unchecked?: boolean;
  /** What `-o` takes: cluster_size, compat, refcount_bits, extended_l2, ... */
  with?: Record<string, string | number>;
}

/** `qemu-img create`. */
export async function createImage(path: string, options: CreateImageOptions): Promise<void> {
  const args = ['create', '-q', '-f', options.format ?? 'qcow2'];
  if (options.base !== undefined)
    args.push('-b', options.base, '-F', options.baseFormat ?? 'qcow2');
  if (options.unchecked) args.push('-u');
  args.push(...creationOptions(options.with), path);
  if (options.size !== undefined) args.push(String(options.size));
  await qemuImg(args);
}

/** `qemu-img rebase -u`: records another base in a qcow2 image, and touches nothing else. */
export async function recordBase(
  path: string,
  base: string,
  baseFormat: QemuFormat = 'qcow2',
): Promise<void> {
  await qemuImg(['rebase', '-u', '-f', 'qcow2', '-b', base, '-F', baseFormat, path]);
}

export interface ConvertOptions {
  from?: QemuFormat;
  to?: QemuFormat;
  compress?: boolean;
  /** Coroutines that work at once; with it, writes go out of order (`-W`). */
  coroutines?: number;
  /**
   * Ends when all has reached the disk (`-t writeback`); without it, some of it may only be in the
   * page cache.
   */
  flush?: boolean;
  with?: Record<string, string | number>;
  /** Milliseconds after which it is ended, and fails. */
  msMax?: number;
}

/** `qemu-img convert`: a flat copy of what `source` (a path or URL) shows. */
export async function convertImage(
  source: string,
  target: string,
  options: ConvertOptions = {},
): Promise<void> {
  const args = ['convert', '-O', options.to ?? 'qcow2'];
  if (options.from !== undefined) args.push('-f', options.from);
  if (options.compress) args.push('-c');
  if (options.coroutines !== undefined) args.push('-W', '-m', String(options.coroutines));
  if (options.flush) args.push('-t', 'writeback');
  await qemuImg([...args, ...creationOptions(options.with), source, target], {
    msMax: options.msMax,
  });
}

function creationOptions(values: Record<string, string | number> = {}): string[] {
  const list = Object.entries(values).map(([name, value]) => `${name}=${value}`);
  return list.length === 0 ? [] : ['-o', list.join(',')];
}

/** What `qemu-img check --output=json` reports; counts that are 0 are left out by it. */
export interface QemuCheckReport {
  filename: string;
  format: string;
  'check-errors': number;
  'image-end-offset'?: number;
  corruptions?: number;
  leaks?: number;
  'corruptions-fixed'?: number;
  'leaks-fixed'?: number;
  'total-clusters'?: number;
  'allocated-clusters'?: number;
  'fragmented-clusters'?: number;
  'compressed-clusters'?: number;
}

export interface QemuCheck {
  /** 0 sound, 1 the check could not be done, 2 corrupt, 3 leaks, 63 the format has no check. */
  exitCode: number;
  /** Missing when the image could not be opened. */
  report?: QemuCheckReport;
  /** Each error and leak, a line each. */
  messages: string;
}

/** `qemu-img check`. */
export async function check(
  path: string,
  options: { format?: QemuFormat; repair?: 'leaks' | 'all'; withoutBase?: boolean } = {},
): Promise<QemuCheck> {
  const { format = 'qcow2', withoutBase = false } = options;
  const repair = options.repair === undefined ? [] : ['-r', options.repair];
  const file = { driver: 'file', filename: path };
  const image = withoutBase
    ? [`json:${JSON.stringify({ driver: format, file, backing: null })}`]
    : ['-f', format, path];
  const args = ['check', '--output=json', ...repair, ...image];
  const { exitCode, stdout, stderr } = await run('qemu-img', args, { exitCodes: [0, 1, 2, 3, 63] });
  // Errors that are found come before the report on the same output.
  const start = stdout.indexOf('{\n');
  const report = start < 0 ? undefined : (JSON.parse(stdout.slice(start)) as QemuCheckReport);
  return { exitCode, report, messages: stdout.slice(0, Math.max(start, 0)) + stderr };
}

/**
 * `qemu-img compare`: whether two disks show the same bytes (the longer one zeros past the shorter
 * one's end).
 */
export async function compare(
  a: string,
  b: string,
  options: { formatA?: QemuFormat; formatB?: QemuFormat } = {},
): Promise<{ identical: boolean; message: string }> {
  const args = ['compare'];
  if (options.formatA !== undefined) args.push('-f', options.formatA);
  if (options.formatB !== undefined) args.push('-F', options.formatB);
  const { exitCode, stdout } = await run('qemu-img', [...args, a, b], { exitCodes: [0, 1] });
  return { identical: exitCode === 0, message: stdout.trim() };
}

/** A line of `qemu-img map --output=json`. */
export interface QemuExtent {
  start: number;
  length: number;
  depth: number;
  present: boolean;
  zero: boolean;
  data: boolean;
  /** Only in QEMU versions that tell it. */
  compressed?: boolean;
  offset?: number;
}

/** `qemu-img map`. */
export async function map(
  path: string,
  options: { format?: QemuFormat } = {},
): Promise<QemuExtent[]> {
  const format = options.format === undefined ? [] : ['-f', options.format];
  return JSON.parse(await qemuImg(['map', '--output=json', ...format, path])) as QemuExtent[];
}

/** The part of `qemu-img info --output=json` that tests look at. */
export interface QemuInfo {
  filename: string;
  format: string;
  'virtual-size': number;
  'actual-size'?: number;
  'cluster-size'?: number;
  'dirty-flag': boolean;
  'backing-filename'?: string;
  'full-backing-filename'?: string;
  'backing-filename-format'?: string;
  'format-specific'?: { type: string; data: Record<string, unknown> };
}

/** `qemu-img info`; it opens no backing file. */
export async function info(path: string, options: { format?: QemuFormat } = {}): Promise<QemuInfo> {
  const format = options.format === undefined ? [] : ['-f', options.format];
  return JSON.parse(await qemuImg(['info', '--output=json', ...format, path])) as QemuInfo;
}

/**
 * Runs qemu-io commands on one image, in order.
 * @throws when one of them fails (a `read -P` that finds other bytes, for one).
 */
export async function qemuIo(
  path: string,
  commands: readonly string[],
  options: { format?: QemuFormat; readOnly?: boolean } = {},
): Promise<string> {
  const args = ['-f', options.format ?? 'qcow2', ...(options.readOnly ? ['-r'] : [])];
  for (const command of commands) args.push('-c', command);
  const { stdout } = await run('qemu-io', [...args, path]);
  if (/failed|invalid|not supported|bad argument|usage:/i.test(stdout))
    throw new Error(`qemu-io on ${path}: ${stdout.trim()}`);
  return stdout;
}
