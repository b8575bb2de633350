/** What a client may ask of the server's memory and time. */

/**
 * Bytes of data that one request may carry or ask for: what is advertised (NBD_INFO_BLOCK_SIZE),
 * and what the kernel sends at most.
 */
export const PAYLOAD_BYTES_MAX: number = 32 * 1024 * 1024;
/** Connections of one server; one more is closed at once. */
export const CONNECTIONS_MAX = 64;
/**
 * Requests of one connection that have not been answered; the next is not read before one of them
 * has been.
 */
export const REQUESTS_IN_FLIGHT_MAX = 128;
/**
 * Bytes of data, to be written or to be sent, that the requests of one connection hold together;
 * one request alone is always let in.
 */
export const BYTES_IN_FLIGHT_MAX: number = 64 * 1024 * 1024;
/** Time to come to an export; a client that only connects holds nothing for ever. */
export const HANDSHAKE_MS_MAX = 60_000;
/** Options of one handshake. */
export const OPTIONS_MAX = 1024;
/**
 * Data of an option that is looked at; what is longer is passed over and answered
 * NBD_REP_ERR_TOO_BIG.
 */
export const OPTION_BYTES_MAX: number = 64 * 1024;
/** Data that is passed over; a client that announces more is dropped. */
export const SKIP_BYTES_MAX: number = 64 * 1024 * 1024;
/** Descriptors of one NBD_CMD_BLOCK_STATUS reply for each context. */
export const DESCRIPTORS_MAX = 4096;
/** Extents that one NBD_CMD_BLOCK_STATUS looks at. */
export const EXTENTS_MAX = 16_384;
/** A shorter read is sent as it is, without asking where its zeros are. */
export const HOLE_READ_BYTES_MIN: number = 64 * 1024;
/** Content chunks of one read. */
export const READ_CHUNKS_MAX = 256;
/**
 * Pieces in which data is fetched that nobody is sent, and zeros are written that must take space.
 */
export const PIECE_BYTES: number = 1024 * 1024;
/**
 * How long a request waits for a base that fails or does not answer; below the 90 s and more that
 * clients wait.
 */
export const IO_TIMEOUT_MS_DEFAULT = 60_000;
/** Pauses between tries at a base: the first, and the longest. */
export const RETRY_MS_FIRST = 100;
export const RETRY_MS_MAX = 5_000;
/**
 * When the server is closed, requests that are under way have so long to end; those that wait for a
 * base are then given up.
 */
export const CLOSE_GRACE_MS = 2_000;
/** After that, clients have so long to take their replies. */
export const CLOSE_MS_MAX = 10_000;
