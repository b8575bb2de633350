/** Why a decoder gives up. */
export class Undecodable extends Error {
  /** Whether it is no damage. */
  readonly isUnsupported: boolean;

  constructor(message: string, isUnsupported = false) {
    super(message);
    this.isUnsupported = isUnsupported;
  }
}
