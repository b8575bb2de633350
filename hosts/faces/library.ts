/**
 * What the library has on every runtime beside the calls that open disks: types, errors, events.
 */
export type {
  BlockFile,
  BlockSource,
  ContainerInfo,
  Flow,
  MirroredContent,
  ReadHint,
} from '../api/block.ts';
export * from '../api/chain.ts';
export * from '../api/check.ts';
export type { Compression } from '../api/codec.ts';
export type { ConvertOptions, ConvertReport } from '../api/convert.ts';
export * from '../api/disk.ts';
export type { ErrorCode, ErrorReason } from '../api/errors.ts';
export { MillraceError } from '../api/errors.ts';
export * from '../api/image.ts';
export * from '../api/job.ts';
export type { Library } from '../api/library.ts';
export * from '../api/open.ts';
export * from '../api/profile.ts';
export type {
  Answer,
  AnswerBody,
  Fetch,
  FetchInit,
  HeaderSource,
  HttpOptions,
  HttpSource,
  HttpStats,
  PieceReader,
  UrlSource,
} from '../bases/http/http.ts';
export type { NbdBaseOptions, NbdSource, NbdStats } from '../bases/nbd/nbd.ts';
export type { DomainEventDetail, DomainTarget } from '../disk/domain.ts';
export { Domain } from '../disk/domain.ts';
