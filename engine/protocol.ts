// Every number that the engine and its hosts both know; README.md says what they are for. Both
// compilers import this file: AssemblyScript makes i32 of a constant without a type annotation,
// TypeScript knows its value. So there are literals here, and nothing else.

/** Version of this interface; a host refuses another. */
export const INTERFACE_VERSION = 3;

// Limits

/** Memory of one disk: less has no room for the tables, and more is never used. */
export const MEMORY_BYTES_MIN = 8388608;
export const MEMORY_BYTES_MAX = 1073741824;
/** Images in a chain. */
export const IMAGES_MAX = 32;
/**
 * Files: image n begins in file n; an image that lies in several has more of them, whose numbers
 * begin at IMAGES_MAX.
 */
export const FILES_MAX = 288;
/** Text passed between host and engine: a backing file name, format and identity. */
export const TEXT_BYTES = 4096;
/** Largest text of a base's identity that a header takes. */
export const IDENTITY_BYTES_MAX = 256;
/**
 * What one bit of a map of holes stands for, as a power of two: the block of usual file systems.
 */
export const HOLE_BLOCK_BITS = 12;
/** Numbers, of 64-bit floats, in a report (an image, the job). */
export const REPORT_NUMBERS = 32;

/** Ranges of a job's order that wait to be taken up. */
export const ORDER_RANGES_MAX = 64;

/** Value of a read: it was answered at once, waited for what was under way, or had to fetch. */
export const READ_AT_ONCE = 0;
export const READ_WAITED = 1;
export const READ_MISSED = 2;

/** Number of the overlay among the images. */
export const OVERLAY = 0;

// Kinds of request

export const KIND_OPEN = 1;
export const KIND_CREATE = 2;
export const KIND_READ = 3;
export const KIND_WRITE = 4;
export const KIND_ZERO = 5;
export const KIND_DISCARD = 6;
export const KIND_FLUSH = 7;
export const KIND_RESIZE = 8;
export const KIND_STREAM = 9;
export const KIND_REMAINING = 10;
export const KIND_MAP = 11;
export const KIND_CHECK = 12;
export const KIND_CLOSE = 13;
export const KIND_REFER = 14;
export const KIND_SNAPSHOTS = 15;
/** What the overlay lacks of a range is brought into it, before anyone reads it. */
export const KIND_POPULATE = 16;
/** Clusters that the host has compressed are written as they are. */
export const KIND_PACK = 17;

// Arguments of requests

/** Open: the overlay is going to be written. */
export const OPEN_WRITABLE = 1;
/** Open: the image is only going to be checked: one without a refcount table is taken. */
export const OPEN_TO_CHECK = 2;
/** Open: the image is only going to be described: one is taken whose data cannot be read. */
export const OPEN_TO_DESCRIBE = 4;
/**
 * Open: these are the flags. What is above them is the place of a snapshot's entry in the file, a
 * multiple of eight: an image that is only read is to show that.
 */
export const OPEN_FLAGS = 7;
/**
 * Create: cluster bits in the lowest byte, from these bits on the refcount order, extended L2, the
 * method of compression, and whether refcounts may be lazy.
 */
export const CREATE_REFCOUNT_ORDER_SHIFT = 8;
export const CREATE_EXTENDED_L2_SHIFT = 16;
export const CREATE_COMPRESSION_SHIFT = 17;
export const CREATE_LAZY_REFCOUNTS_SHIFT = 24;
/** Write: there is no data, all is zeros. */
export const WRITE_ZEROES = 1;
/** Write: clusters of zeros take space, too. */
export const WRITE_FULL = 2;
/** Pack: bytes of the length of a stream, at the beginning of what is taken. */
export const PACK_LENGTH_BYTES = 4;
/** Discard: the base holds what the overlay holds (after a commit): the clusters become absent. */
export const DISCARD_TO_BASE = 1;
/** Check: what it may repair. The last is for opening: what a crash leaves behind, and no more. */
export const REPAIR_NOTHING = 0;
export const REPAIR_LEAKS = 1;
export const REPAIR_ALL = 2;
export const REPAIR_CRASH = 3;
/** Close: there is nothing to write. */
export const CLOSE_READ_ONLY = 1;
/** Close: the disk goes on; its file is brought into the state of a closed one, to be copied. */
export const CLOSE_GOES_ON = 2;
/** Snapshots: tell of a persistent bitmap instead. */
export const SNAPSHOTS_OF_BITMAPS = 1;

// Formats of images

/** Asks for the format to be told by the image's first bytes. */
export const FORMAT_PROBE = 0;
export const FORMAT_RAW = 1;
export const FORMAT_QCOW2 = 2;
export const FORMAT_VMDK = 3;
/** VHD, by the name that QEMU has for it. */
export const FORMAT_VPC = 4;
export const FORMAT_VHDX = 5;
export const FORMAT_VDI = 6;
export const FORMAT_QED = 7;
export const FORMAT_PARALLELS = 8;

// Submissions

export const OP_READ = 1;
export const OP_WRITE = 2;
export const OP_FLUSH = 3;
export const OP_TRUNCATE = 4;
export const OP_DISCARD = 5;
export const OP_DECOMPRESS = 6;
export const OP_TAKE = 7;
export const OP_GIVE = 8;
export const OP_DONE = 9;
export const OP_HOLES = 10;

/** Nobody but the job waits for it. */
export const FLAG_BACKGROUND = 1;
/** It is the job's, and may be cancelled when that is aborted. */
export const FLAG_JOBS = 2;
/** It is fetched ahead: a guest is expected to want it soon, and nobody waits for it yet. */
export const FLAG_AHEAD = 4;

/** Methods of compression, as DECOMPRESS names them in the place of a file. */
export const METHOD_DEFLATE = 0;
export const METHOD_ZSTD = 1;

/** A submission queue entry, and where its fields stand: bytes. */
export const SUBMISSION_BYTES = 48;
export const SUBMISSION_TAG = 0;
export const SUBMISSION_OP = 4;
export const SUBMISSION_FILE = 8;
export const SUBMISSION_FLAGS = 12;
export const SUBMISSION_OFFSET = 16;
export const SUBMISSION_LENGTH = 24;
export const SUBMISSION_ADDRESS = 28;
export const SUBMISSION_ADDRESS2 = 32;
export const SUBMISSION_LENGTH2 = 36;
export const SUBMISSION_REQUEST = 40;

/** A completion queue entry. */
export const COMPLETION_BYTES = 16;
export const COMPLETION_TAG = 0;
export const COMPLETION_RESULT = 4;
export const COMPLETION_DETAIL = 8;

// Answers

/** A map: as many extents as fit into so many bytes. */
export const MAP_BYTES = 65536;
export const EXTENT_BYTES = 32;
export const EXTENT_OFFSET = 0;
export const EXTENT_LENGTH = 8;
export const EXTENT_HOST = 16;
export const EXTENT_STATE = 24;
export const EXTENT_DEPTH = 28;
/** The number of the file, in the state. */
export const EXTENT_FILE_BITS = 8;

/** States of an extent. */
export const ABSENT = 0;
export const DATA = 1;
export const ZEROES = 2;
export const COMPRESSED_DATA = 3;

/** A check: 64-bit floats. */
export const CHECK_CORRUPTIONS = 0;
export const CHECK_LEAKS = 1;
export const CHECK_CORRUPTIONS_FIXED = 2;
export const CHECK_LEAKS_FIXED = 3;
export const CHECK_ALLOCATED = 4;
export const CHECK_COMPRESSED = 5;
export const CHECK_END = 6;
export const CHECK_FRAGMENTED = 7;
export const CHECK_NUMBERS = 8;

/** A snapshot or bitmap: 64-bit floats, then id and name, of up to so many bytes together. */
export const SNAPSHOT_DATE_SECONDS = 0;
export const SNAPSHOT_DATE_NANOSECONDS = 1;
export const SNAPSHOT_CLOCK_SECONDS = 2;
export const SNAPSHOT_CLOCK_NANOSECONDS = 3;
export const SNAPSHOT_STATE_BYTES = 4;
/** -1: not told. */
export const SNAPSHOT_ICOUNT = 5;
export const SNAPSHOT_ID_BYTES = 6;
export const SNAPSHOT_NAME_BYTES = 7;
/** Where its entry stands in the file. */
export const SNAPSHOT_AT = 8;
export const BITMAP_FLAGS = 0;
export const BITMAP_GRANULARITY_BITS = 1;
export const BITMAP_NAME_BYTES = 2;
export const SNAPSHOT_NUMBERS = 9;
export const SNAPSHOT_TEXT_BYTES = 131070;

// Reports

/**
 * An image. Texts are given by position and length in its header page; what is so or not by 0, 1.
 */
export const IMAGE_FORMAT = 0;
export const IMAGE_SIZE = 1;
export const IMAGE_FILE_SIZE = 2;
export const IMAGE_VERSION = 3;
export const IMAGE_CLUSTER_SIZE = 4;
export const IMAGE_COMPRESSION = 5;
export const IMAGE_REFCOUNT_BITS = 6;
export const IMAGE_LAZY_REFCOUNTS = 7;
export const IMAGE_EXTENDED_L2 = 8;
export const IMAGE_CORRUPT = 9;
export const IMAGE_DIRTY = 10;
export const IMAGE_NAME_AT = 11;
export const IMAGE_NAME_BYTES = 12;
export const IMAGE_FORMAT_AT = 13;
export const IMAGE_FORMAT_BYTES = 14;
export const IMAGE_IDENTITY_AT = 15;
export const IMAGE_IDENTITY_BYTES = 16;
export const IMAGE_SNAPSHOTS = 17;
export const IMAGE_BITMAPS = 18;
/** 0 none, 1 AES, 2 LUKS; where LUKS' offset and length stand. */
export const IMAGE_ENCRYPTION = 19;
export const IMAGE_CRYPTO_AT = 20;
export const IMAGE_EXTERNAL_DATA = 21;
export const IMAGE_RAW_DATA = 22;
export const IMAGE_DATA_FILE_AT = 23;
export const IMAGE_DATA_FILE_BYTES = 24;
/** The table of the features' names, also of an image that was refused for one. */
export const IMAGE_FEATURE_NAMES_AT = 25;

/** The job. */
export const JOB_STATUS = 0;
export const JOB_PAUSED = 1;
export const JOB_ABORTED = 2;
export const JOB_ERROR = 3;
export const JOB_REASON = 4;
export const JOB_ERROR_IMAGE = 5;
export const JOB_ERROR_OFFSET = 6;
/** The host's number for its own error. */
export const JOB_DETAIL = 7;
/** Counts pauses that the job made by itself. */
export const JOB_STOPS = 8;
export const JOB_FROM = 9;
export const JOB_TO = 10;
export const JOB_REMAINING = 11;
export const JOB_SPEED = 12;
export const JOB_COPIES = 13;
/** Bytes of the disk whose compressed clusters went into the overlay as they were. */
export const JOB_KEPT = 14;

export const STATUS_COMPLETED = 0;
export const STATUS_ACTIVE = 1;
export const STATUS_FAILED = 2;
/** Before the first job. */
export const STATUS_NONE = 3;

/** How a job takes an I/O error. */
export const ON_ERROR_REPORT = 0;
export const ON_ERROR_STOP = 1;
export const ON_ERROR_IGNORE = 2;
export const ON_ERROR_ENOSPC = 3;

// Error codes: the host's ErrorCode by number

export const OK = 0;
export const EINVAL = 1;
export const EBUSY = 2;
export const ENOSPC = 3;
export const EIO = 4;
export const ENOENT = 5;
export const EEXIST = 6;
export const ECORRUPT = 7;
export const EUNSUPPORTED = 8;
export const ECHANGED = 9;
export const EACCES = 10;
export const EROFS = 11;
export const ABORTED = 12;
export const ETIMEDOUT = 13;
export const ECLOSED = 14;

// Reasons: what exactly is wrong. The host has a sentence for each (hosts/disk/driver/reasons.ts)

/** The host's own error says it: an operation failed. */
export const R_HOST = 0;
export const R_MAGIC = 1;
export const R_VERSION = 2;
export const R_CLUSTER_BITS = 3;
export const R_HEADER_LENGTH = 4;
export const R_ENCRYPTED = 5;
export const R_EXTERNAL_DATA = 6;
export const R_INCOMPATIBLE = 7;
export const R_MARKED_CORRUPT = 8;
export const R_REFCOUNT_ORDER = 9;
export const R_L1_SIZE = 10;
export const R_L1_OFFSET = 11;
export const R_REFCOUNT_TABLE = 12;
export const R_BACKING_NAME = 13;
export const R_EXTENSION = 14;
export const R_COMPRESSION_TYPE = 15;
export const R_SIZE = 16;
export const R_SNAPSHOTS = 17;
export const R_BITMAPS = 18;
export const R_EXTENDED_L2 = 19;
export const R_L1_ENTRY = 20;
export const R_L2_ENTRY = 21;
export const R_CLUSTER_UNALIGNED = 22;
export const R_CLUSTER_OUTSIDE = 23;
export const R_CLUSTER_IN_METADATA = 24;
export const R_COMPRESSED = 25;
export const R_SUBCLUSTERS = 26;
export const R_REFCOUNT_BLOCK = 27;
export const R_REFCOUNT = 28;
export const R_RANGE = 30;
export const R_READ_ONLY = 31;
export const R_JOB_ACTIVE = 32;
export const R_NO_JOB = 33;
export const R_ABORTED = 34;
export const R_MEMORY = 35;
export const R_HEADER_FULL = 36;
export const R_TOO_LARGE = 37;
export const R_FLUSH_LOST = 38;
export const R_NOT_A_BASE = 39;
export const R_TRUNCATED = 40;
export const R_SNAPSHOT_TABLE = 41;
export const R_SHRINK = 42;
export const R_SHARED_PLACE = 43;
export const R_OTHER_FORMAT = 44;
export const R_REPAIR = 45;
export const R_DAMAGED = 46;
export const R_UNREAD = 47;
export const R_RAW_DATA = 48;
export const R_FORMAT_HEADER = 49;
export const R_FORMAT_VERSION = 50;
export const R_HEADER_CHECKSUM = 51;
export const R_DIFFERENCING = 52;
export const R_BLOCK_SIZE = 53;
export const R_BLOCK_TABLE = 54;
export const R_BLOCK_OUTSIDE = 55;
export const R_LOG = 56;
export const R_PARTS = 57;
export const R_PART_SIZE = 58;
