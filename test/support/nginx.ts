/**
 * A real nginx of its own for a test: a private configuration in a temporary folder, a free
 * loopback port, one folder served. It touches nothing of an nginx that the machine runs, and
 * leaves nothing behind after `stop`.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const START_TIMEOUT_MS = 10_000;
const START_POLL_MS = 10;
/** Answered by nginx itself and not logged. */
const PING_PATH = '/.ping';
/** Another process may take the port between the look for a free one and nginx's start. */
const START_ATTEMPTS = 5;

export interface NginxOptions {
  /** The folder to serve at `/`; the files are readable to the user who runs the test. */
  root: string;
  /** Directives for the `server` block: `limit_rate 1m;`, `location /private/ { … }`. */
  extra?: string;
}

export interface NginxServer {
  /** `http://127.0.0.1:PORT`, without a slash at its end. */
  readonly url: string;
  readonly port: number;
  /** The requests answered so far, in order of their ends. */
  log(): Promise<LoggedRequest[]>;
  stop(): Promise<void>;
}

export interface LoggedRequest {
  method: string;
  uri: string;
  status: number;
  /** Bytes of the body that were sent. */
  bytes: number;
  range: string;
  /** nginx's serial number of the connection: equal numbers mean that it was kept alive. */
  connection: number;
}

/** Starts nginx and returns when it answers. Needs the `nginx` binary (Debian: nginx-light). */
export async function startNginx(options: NginxOptions): Promise<NginxServer> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-nginx-'));
  for (let attempt = 1; ; attempt++) {
    try {
      return await start(folder, options);
    } catch (error) {
      if (attempt < START_ATTEMPTS && /address already in use/i.test(String(error))) continue;
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }
}

async function start(folder: string, options: NginxOptions): Promise<NginxServer> {
  const port = await freePort();
  const log = join(folder, 'access.log');
  await writeFile(join(folder, 'nginx.conf'), configuration(folder, port, options));
  const args = ['-p', folder, '-c', join(folder, 'nginx.conf'), '-e', 'stderr'];
  const nginx = spawn('nginx', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let complaints = '';
  nginx.stderr.setEncoding('utf8').on('data', (text) => (complaints += text));
  // `close` rather than `exit`: what it wrote to stderr has then been read.
  const ended = new Promise<never>((_, reject) => {
    nginx.on('error', (error) =>
      reject(new Error(`cannot start nginx (Debian: nginx-light): ${error.message}`)),
    );
    nginx.on('close', (code) => reject(new Error(`nginx ended with code ${code}: ${complaints}`)));
  });
  ended.catch(() => {});
  const kill = (): boolean => nginx.kill('SIGTERM');
  process.once('exit', kill);
  const stop = async (): Promise<void> => {
    if (nginx.exitCode === null && nginx.signalCode === null) {
      const exit = once(nginx, 'exit');
      kill();
      await exit;
    }
    process.removeListener('exit', kill);
    await rm(folder, { recursive: true, force: true });
  };
  const url = `http://127.0.0.1:${port}`;
  try {
    await Promise.race([ended, untilItAnswers(url)]);
  } catch (error) {
    process.removeListener('exit', kill);
    nginx.kill('SIGKILL');
    throw error;
  }
  return { url, port, stop, log: () => readLog(url, log) };
}

async function readLog(url: string, log: string): Promise<LoggedRequest[]> {
  // A client can have its last byte before nginx has written the line. Its one worker writes it
  // before it takes another request.
  await ping(url);
  return (await readFile(log, 'utf8')).split('\n').filter(Boolean).map(parseLine);
}

function configuration(folder: string, port: number, { root, extra = '' }: NginxOptions): string {
  const scratch = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (kind) => `${kind}_temp_path ${folder}/${kind};`,
  );
  return `
    daemon off;
    # As root, nginx would hand requests to a user who may not read the test's temporary files.
    ${process.getuid?.() === 0 ? 'user root;' : ''}
    worker_processes 1;
    pid ${folder}/nginx.pid;
    error_log stderr warn;
    events { worker_connections 512; }
    http {
      ${scratch.join('\n      ')}
      log_format test '$request_method $uri $status $body_bytes_sent "$http_range" $connection';
      access_log ${folder}/access.log test;
      default_type application/octet-stream;
      sendfile on;
      tcp_nopush on;
      keepalive_requests 100000;
      server {
        listen 127.0.0.1:${port};
        root ${root};
        location = ${PING_PATH} { access_log off; return 204; }
        ${extra}
      }
    }
  `;
}

function parseLine(line: string): LoggedRequest {
  const match = /^(\S+) (.*) (\d+) (\d+) "(.*)" (\d+)$/.exec(line);
  if (match === null) throw new Error(`not a line of the access log: ${line}`);
  const [, method, uri, status, bytes, range, connection] = match;
  return {
    method,
    uri,
    status: Number(status),
    bytes: Number(bytes),
    range,
    connection: Number(connection),
  };
}

async function untilItAnswers(url: string): Promise<void> {
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (true) {
    try {
      return await ping(url);
    } catch (error) {
      if (performance.now() > deadline)
        throw new Error(`nginx did not answer within ${START_TIMEOUT_MS} ms`, { cause: error });
      await new Promise((resolve) => setTimeout(resolve, START_POLL_MS));
    }
  }
}

async function ping(url: string): Promise<void> {
  const response = await fetch(url + PING_PATH);
  await response.arrayBuffer();
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  return port;
}
