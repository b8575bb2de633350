// How the memory is laid out: tables first, then the metadata's pages, then the arena, which has
// the rest.

import { arenaInit, arenaTableBytes } from './core/arena';
import { filesBytes, filesInit } from './core/files';
import { guestInit } from './core/guest';
import { imagesBytes, imagesInit } from './core/image';
import { jobBytes, jobInit } from './core/job';
import { pagesInit, pagesTableBytes } from './core/pages';
import { ringBytes, ringInit } from './core/ring';
import { tasksBytes, tasksInit } from './core/task';
import { formatsInit } from './formats/formats';
import { readaheadInit } from './job/readahead';
import { BLOCK_BYTES, PAGE_BYTES, PAGES_MAX, PAGES_MIN } from './limits';
import { freesBytes, freesInit } from './overlay/frees';
import { packingInit } from './overlay/packing';
import { writebacksInit } from './overlay/progress';
import { refcountsInit } from './overlay/refcounts';
import { stagingBytes, stagingInit } from './overlay/staging';
import { textsInit } from './overlay/texts';
import { zeroPageInit } from './overlay/zeropage';
import { MEMORY_BYTES_MIN, TEXT_BYTES } from './protocol';
import { reportBytes, reportsInit } from './reports';

/** Lays out `bytes` bytes of memory; false if that is too little. */
export function layOut(bytes: f64): bool {
  if (bytes < <f64>MEMORY_BYTES_MIN) return false;
  const end = <usize>(bytes > 4294901760 ? 4294901760 : bytes);
  const pages = max(PAGES_MIN, min(PAGES_MAX, <u32>(end / 8 / PAGE_BYTES)));
  let at = align(__heap_base, 16);
  ringInit(at);
  at = align(at + ringBytes(), 16);
  tasksInit(at);
  at = align(at + tasksBytes(), 16);
  imagesInit(at);
  at = align(at + imagesBytes(), 16);
  filesInit(at);
  at = align(at + filesBytes(), 16);
  formatsInit();
  jobInit(at);
  at = align(at + jobBytes(), 16);
  freesInit(at);
  at = align(at + freesBytes(), 16);
  textsInit(at);
  at = align(at + TEXT_BYTES, 16);
  reportsInit(at);
  at = align(at + reportBytes(), 16);
  const pageTable = at;
  at = align(at + pagesTableBytes(pages), 16);
  const arenaTable = at;
  at = align(at + arenaTableBytes(), BLOCK_BYTES);
  zeroPageInit(at);
  at += PAGE_BYTES;
  pagesInit(pageTable, at, pages);
  at += pages * PAGE_BYTES;
  stagingInit(at);
  at = align(at + stagingBytes(), BLOCK_BYTES);
  writebacksInit();
  refcountsInit();
  packingInit();
  readaheadInit(false);
  guestInit();
  if (at >= end) return false;
  arenaInit(arenaTable, at, end);
  return true;
}

function align(at: usize, unit: usize): usize {
  return (at + unit - 1) & ~(unit - 1);
}
