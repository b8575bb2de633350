/**
 * What a Durable Object's storage keeps of jobs: those that go on, with what was asked, and what
 * became of the last ones. An object that was lost takes them up from here.
 */
import type { StreamInfo } from '../api/job.ts';
import type { ObjectStorage } from './platform.ts';

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS millrace_jobs (
    device TEXT PRIMARY KEY, options TEXT NOT NULL, tries INTEGER NOT NULL
  );
  CREATE TABLE IF NOT EXISTS millrace_ends (device TEXT PRIMARY KEY, info TEXT NOT NULL);
`;

/** A job that goes on, without its options. */
export interface KeptJob {
  device: string;
  /** How often it could not be taken up again, one time after another. */
  tries: number;
}

export class KeptJobs {
  readonly #sql: ObjectStorage['sql'];

  constructor(storage: ObjectStorage) {
    this.#sql = storage.sql;
    this.#sql.exec(SCHEMA);
  }

  all(): KeptJob[] {
    return this.#sql
      .exec('SELECT device, tries FROM millrace_jobs')
      .toArray() as unknown as KeptJob[];
  }

  /** What was asked, as JSON; undefined where no job goes on. */
  optionsOf(device: string): string | undefined {
    const [job] = this.#sql
      .exec('SELECT options FROM millrace_jobs WHERE device = ?', device)
      .toArray() as { options: string }[];
    return job && (job.options || '{}');
  }

  /** A new job, in the place of the last one. */
  begin(device: string, options: string): void {
    this.#sql.exec('DELETE FROM millrace_ends WHERE device = ?', device);
    this.#sql.exec(
      'INSERT OR REPLACE INTO millrace_jobs (device, options, tries) VALUES (?, ?, 0)',
      device,
      options,
    );
  }

  setOptions(device: string, options: string): void {
    this.#sql.exec('UPDATE millrace_jobs SET options = ? WHERE device = ?', options, device);
  }

  setTries(device: string, tries: number): void {
    this.#sql.exec('UPDATE millrace_jobs SET tries = ? WHERE device = ?', tries, device);
  }

  remove(device: string): void {
    this.#sql.exec('DELETE FROM millrace_jobs WHERE device = ?', device);
  }

  keepEnd(device: string, info: StreamInfo): void {
    this.#sql.exec(
      'INSERT OR REPLACE INTO millrace_ends (device, info) VALUES (?, ?)',
      device,
      JSON.stringify(info),
    );
  }

  /** What became of the disk's last job, as JSON. */
  endOf(device: string): string | undefined {
    const [end] = this.#sql
      .exec('SELECT info FROM millrace_ends WHERE device = ?', device)
      .toArray() as { info: string }[];
    return end?.info;
  }
}
