// What the engine reports of an image, and of the job: numbers, in the order that protocol.ts has.

import { clusterBytes, imageOf } from './core/image';
import { theJob } from './core/job';
import { Qcow2, qcow2Of } from './formats/qcow2/image';
import {
  FORMAT_PROBE,
  FORMAT_QCOW2,
  IMAGE_BITMAPS,
  IMAGE_CLUSTER_SIZE,
  IMAGE_COMPRESSION,
  IMAGE_CORRUPT,
  IMAGE_CRYPTO_AT,
  IMAGE_DATA_FILE_AT,
  IMAGE_DATA_FILE_BYTES,
  IMAGE_DIRTY,
  IMAGE_ENCRYPTION,
  IMAGE_EXTENDED_L2,
  IMAGE_EXTERNAL_DATA,
  IMAGE_FEATURE_NAMES_AT,
  IMAGE_FILE_SIZE,
  IMAGE_FORMAT,
  IMAGE_FORMAT_AT,
  IMAGE_FORMAT_BYTES,
  IMAGE_IDENTITY_AT,
  IMAGE_IDENTITY_BYTES,
  IMAGE_LAZY_REFCOUNTS,
  IMAGE_NAME_AT,
  IMAGE_NAME_BYTES,
  IMAGE_RAW_DATA,
  IMAGE_REFCOUNT_BITS,
  IMAGE_SIZE,
  IMAGE_SNAPSHOTS,
  IMAGE_VERSION,
  JOB_ABORTED,
  JOB_COPIES,
  JOB_DETAIL,
  JOB_ERROR,
  JOB_ERROR_IMAGE,
  JOB_ERROR_OFFSET,
  JOB_FROM,
  JOB_KEPT,
  JOB_PAUSED,
  JOB_REASON,
  JOB_REMAINING,
  JOB_SPEED,
  JOB_STATUS,
  JOB_STOPS,
  JOB_TO,
  REPORT_NUMBERS,
} from './protocol';

/** Where the numbers stand; each report takes the place of the one before. */
let reportAt: usize = 0;

export function reportBytes(): usize {
  return REPORT_NUMBERS * 8;
}

export function reportsInit(at: usize): void {
  reportAt = at;
}

/** Address of a report on an image: IMAGE_FORMAT and the following of protocol.ts. */
export function imageReport(index: u32): usize {
  const i = imageOf(index);
  memory.fill(reportAt, 0, REPORT_NUMBERS * 8);
  put(IMAGE_FORMAT, i.format);
  put(IMAGE_SIZE, <f64>i.size);
  put(IMAGE_FILE_SIZE, <f64>i.fileSize);
  put(IMAGE_COMPRESSION, i.compression);
  put(IMAGE_NAME_AT, i.backingNameAt);
  put(IMAGE_NAME_BYTES, i.backingNameBytes);
  put(IMAGE_FORMAT_AT, i.backingFormatAt);
  put(IMAGE_FORMAT_BYTES, i.backingFormatBytes);
  put(IMAGE_IDENTITY_AT, i.identityAt);
  put(IMAGE_IDENTITY_BYTES, i.identityBytes);
  put(IMAGE_CLUSTER_SIZE, <f64>(i.format == FORMAT_QCOW2 ? clusterBytes(i) : i.unitBytes));
  if (i.format == FORMAT_QCOW2) putQcow2(qcow2Of(i));
  // Of one that was refused as well.
  if (i.format == FORMAT_QCOW2 || i.format == FORMAT_PROBE)
    put(IMAGE_FEATURE_NAMES_AT, qcow2Of(i).featureNamesAt);
  return reportAt;
}

/** What only qcow2 images tell. */
function putQcow2(i: Qcow2): void {
  put(IMAGE_VERSION, i.version);
  put(IMAGE_REFCOUNT_BITS, <f64>((<u32>1) << i.refcountOrder));
  put(IMAGE_LAZY_REFCOUNTS, i.lazyRefcounts ? 1 : 0);
  put(IMAGE_EXTENDED_L2, i.extendedL2 ? 1 : 0);
  put(IMAGE_CORRUPT, i.corrupt ? 1 : 0);
  put(IMAGE_DIRTY, i.dirty ? 1 : 0);
  put(IMAGE_SNAPSHOTS, i.snapshots);
  put(IMAGE_BITMAPS, i.bitmapCount);
  put(IMAGE_ENCRYPTION, i.encryption);
  put(IMAGE_CRYPTO_AT, i.cryptoAt);
  put(IMAGE_EXTERNAL_DATA, i.externalData ? 1 : 0);
  put(IMAGE_RAW_DATA, i.rawData ? 1 : 0);
  put(IMAGE_DATA_FILE_AT, i.dataFileAt);
  put(IMAGE_DATA_FILE_BYTES, i.dataFileBytes);
}

/** Address of a report on the job: JOB_STATUS and the following of protocol.ts. */
export function jobReport(): usize {
  const j = theJob();
  put(JOB_STATUS, j.status);
  put(JOB_PAUSED, j.paused);
  put(JOB_ABORTED, j.aborted);
  put(JOB_ERROR, j.error);
  put(JOB_REASON, j.reason);
  put(JOB_ERROR_IMAGE, j.errorImage);
  put(JOB_ERROR_OFFSET, <f64>j.errorOffset);
  put(JOB_DETAIL, j.detail);
  put(JOB_STOPS, j.stops);
  put(JOB_FROM, <f64>j.from);
  put(JOB_TO, <f64>j.to);
  put(JOB_REMAINING, <f64>j.remaining);
  put(JOB_SPEED, <f64>j.speed);
  put(JOB_COPIES, j.copies);
  put(JOB_KEPT, <f64>j.kept);
  return reportAt;
}

function put(index: u32, value: f64): void {
  assert(index < <u32>REPORT_NUMBERS);
  store<f64>(reportAt + index * 8, value);
}
