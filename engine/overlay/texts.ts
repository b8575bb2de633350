// The texts of the base that the host wants recorded: name, format and identity, one behind the
// other where it has put them.

import { FORMAT_BYTES_MAX } from '../formats/qcow2/header';
import { BACKING_NAME_BYTES_MAX } from '../limits';
import { IDENTITY_BYTES_MAX } from '../protocol';

/** Where they stand, and their lengths; a text of no bytes is none. */
@unmanaged
class Texts {
  at: usize;
  nameBytes: u32;
  formatBytes: u32;
  identityBytes: u32;

  get nameAt(): usize {
    return this.at;
  }

  get formatAt(): usize {
    return this.at + this.nameBytes;
  }

  get identityAt(): usize {
    return this.at + this.nameBytes + this.formatBytes;
  }
}

export function backingTexts(): Texts {
  return changetype<Texts>(memory.data(offsetof<Texts>(), 8));
}

export function textsInit(at: usize): void {
  backingTexts().at = at;
  textsForget();
}

/** No base is to be recorded. */
export function textsForget(): void {
  const texts = backingTexts();
  texts.nameBytes = 0;
  texts.formatBytes = 0;
  texts.identityBytes = 0;
}

/**
 * Called once the host has put the three texts there. False if one is too long.
 */
export function setBackingTexts(name: u32, format: u32, identity: u32): bool {
  if (name > BACKING_NAME_BYTES_MAX || format > FORMAT_BYTES_MAX) return false;
  const texts = backingTexts();
  texts.nameBytes = name;
  texts.formatBytes = format;
  texts.identityBytes = identity <= <u32>IDENTITY_BYTES_MAX ? identity : 0;
  return true;
}
