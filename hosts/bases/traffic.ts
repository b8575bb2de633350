/** What sources on servers tell of their traffic. */

/** What was sent and received over HTTP so far. */
export interface HttpStats {
  /** Requests sent, repeated ones included. */
  requests: number;
  /** Body bytes received, used or not. */
  bytes: number;
  /** Requests that had to be repeated. */
  retries: number;
}

/** What was sent and received by NBD so far. */
export interface NbdStats {
  /** Requests sent, repeated ones included. */
  requests: number;
  /** Bytes of content received; holes have none. */
  bytes: number;
  /** Ranges that had to be asked for again. */
  retries: number;
}
