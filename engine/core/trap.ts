// Where a broken assertion ends: the engine's only import beside its memory. The host turns it into
// an error that names the place, and closes the disk.

// @ts-ignore: decorator
@external("host", "trap")
declare function trap(file: usize, bytes: u32, line: u32, column: u32): void;

/** Called by `assert` in the place of AssemblyScript's own abort; `file` is a string of its. */
export function abort(_message: usize, file: usize, line: u32, column: u32): void {
  // The length of a string stands before it (AssemblyScript's memory layout).
  trap(file, file ? load<u32>(file - 4) : 0, line, column);
  unreachable();
}
