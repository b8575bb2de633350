/**
 * The service worker: keeps the files of the page, so that it opens without a network. It never
 * touches disk images, and a page never gets files of two builds: a new build's worker takes over
 * when no page of the old one is open any more.
 */
interface Lifetime extends Event {
  waitUntil(promise: Promise<unknown>): void;
}

interface Fetch extends Lifetime {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}

/** What a service worker's global scope has that the page's types do not know. */
const scope = self as unknown as EventTarget & {
  readonly clients: { claim(): Promise<void> };
  readonly registration: { readonly scope: string };
};

const files: readonly string[] = __FILES__;
const home = scope.registration.scope;
/** Pages in other folders of this site have caches of their own. */
const prefix = `millrace-page ${home} `;
const name = prefix + __BUILD__;

scope.addEventListener('install', (event) => {
  (event as Lifetime).waitUntil(
    caches
      .open(name)
      .then((cache) => Promise.all(files.map((file) => keep(cache, new URL(file, home))))),
  );
});

scope.addEventListener('activate', (event) => {
  (event as Lifetime).waitUntil(forgetOldBuilds().then(() => scope.clients.claim()));
});

scope.addEventListener('fetch', (event) => {
  const { request } = event as Fetch;
  if (request.method !== 'GET' || request.headers.has('Range') || !request.url.startsWith(home))
    return;
  (event as Fetch).respondWith(answer(request));
});

async function keep(cache: Cache, url: URL): Promise<void> {
  const response = await fetch(url, { cache: 'reload' });
  if (!response.ok) throw new Error(`${url.href} answered ${response.status}`);
  // Some servers send a page on to its address without '.html', and browsers show no kept page that
  // was sent on.
  await cache.put(url, response.redirected ? new Response(response.body, response) : response);
}

/** Where what is kept cannot be read, the page comes from its server. */
async function answer(request: Request): Promise<Response> {
  return (await keptFor(request).catch(() => undefined)) ?? fetch(request);
}

async function keptFor(request: Request): Promise<Response | undefined> {
  const cache = await caches.open(name);
  const url = new URL(request.url);
  // A page's address has what it shows behind it.
  url.hash = url.search = '';
  return cache.match(url.href === home ? new URL('index.html', home) : url);
}

async function forgetOldBuilds(): Promise<void> {
  for (const other of await caches.keys())
    if (other.startsWith(prefix) && other !== name) await caches.delete(other);
}
