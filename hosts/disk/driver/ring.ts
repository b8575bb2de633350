/** The entries of the ring (engine/README.md): what the engine asks for, and how that went. */
import {
  COMPLETION_BYTES,
  COMPLETION_DETAIL,
  COMPLETION_RESULT,
  COMPLETION_TAG,
  SUBMISSION_ADDRESS,
  SUBMISSION_ADDRESS2,
  SUBMISSION_FILE,
  SUBMISSION_FLAGS,
  SUBMISSION_LENGTH,
  SUBMISSION_LENGTH2,
  SUBMISSION_OFFSET,
  SUBMISSION_OP,
  SUBMISSION_REQUEST,
  SUBMISSION_TAG,
} from '../../../engine/protocol.ts';

const TWO_TO_32 = 4294967296;

/** One thing that the engine asks of its host. */
export interface Submission {
  op: number;
  /** By which the engine knows its completion. */
  tag: number;
  /** The request that it is done for. */
  request: number;
  /** The number of the file; for OP_DECOMPRESS, of the method. */
  file: number;
  flags: number;
  offset: number;
  length: number;
  /** Where the bytes are in the engine's memory. */
  address: number;
  /** Where the inflated bytes go. */
  address2: number;
  length2: number;
}

/** How an operation went. */
export interface Completion {
  tag: number;
  /** 0, or the negative number of an error code. */
  result: number;
  /** The number by which the host knows its own error. */
  detail: number;
}

/** Reads the submission at `entry`. */
export function submissionAt(words: Uint32Array, entry: number): Submission {
  const offsetAt = (entry + SUBMISSION_OFFSET) >> 2;
  return {
    op: words[(entry + SUBMISSION_OP) >> 2],
    tag: words[(entry + SUBMISSION_TAG) >> 2],
    request: words[(entry + SUBMISSION_REQUEST) >> 2],
    file: words[(entry + SUBMISSION_FILE) >> 2],
    flags: words[(entry + SUBMISSION_FLAGS) >> 2],
    offset: words[offsetAt] + words[offsetAt + 1] * TWO_TO_32,
    length: words[(entry + SUBMISSION_LENGTH) >> 2],
    address: words[(entry + SUBMISSION_ADDRESS) >> 2],
    address2: words[(entry + SUBMISSION_ADDRESS2) >> 2],
    length2: words[(entry + SUBMISSION_LENGTH2) >> 2],
  };
}

/** Writes completions one behind the other, from `at` on. */
export function writeCompletions(
  words: Uint32Array,
  at: number,
  completions: readonly Completion[],
): void {
  let entry = at;
  for (const { tag, result, detail } of completions) {
    words[(entry + COMPLETION_TAG) >> 2] = tag;
    words[(entry + COMPLETION_RESULT) >> 2] = result;
    words[(entry + COMPLETION_DETAIL) >> 2] = detail;
    entry += COMPLETION_BYTES;
  }
}
