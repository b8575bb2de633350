// Where a broken assertion ends: the engine's only import beside its memory. The host turns it into an error and closes the disk.

// @ts-ignore: decorator
@external("host", "trap")
declare function trap(line: u32, column: u32): void;

/** Called by `assert` in the place of AssemblyScript's own abort. */
export function abort(_message: usize, _file: usize, line: u32, column: u32): void {
  trap(line, column);
  unreachable();
}
