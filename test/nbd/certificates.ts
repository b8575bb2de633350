/** Certificates for TLS, made anew: nothing that expires lies in the repository. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { peerPath } from '../support/peer.ts';
import { run } from '../support/run.ts';

/**
 * An authority with a certificate for a server and one for a client, under the names that libnbd
 * looks for.
 */
export async function makeCertificates(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const openssl = (...args: string[]) => run(peerPath('openssl'), args, { cwd: folder });
  const subject = ['-nodes', '-newkey', 'rsa:2048', '-days', '2'];
  await openssl(
    'req',
    '-x509',
    ...subject,
    '-keyout',
    'ca-key.pem',
    '-out',
    'ca-cert.pem',
    '-subj',
    '/CN=authority',
  );
  await writeFile(join(folder, 'names'), 'subjectAltName=DNS:localhost');
  for (const who of ['server', 'client']) {
    const key = ['-keyout', `${who}-key.pem`, '-out', `${who}.csr`];
    await openssl('req', '-new', '-nodes', '-newkey', 'rsa:2048', ...key, '-subj', `/CN=${who}`);
    const signed = ['-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial'];
    await openssl(
      'x509',
      '-req',
      '-in',
      `${who}.csr`,
      ...signed,
      '-days',
      '2',
      '-extfile',
      'names',
      '-out',
      `${who}-cert.pem`,
    );
  }
}
