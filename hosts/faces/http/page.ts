/**
 * The page for people at `/`. It is one file without secrets, and may do no more than it was made
 * for: its own scripts and styles run, known by their digests (Content Security Policy Level 3,
 * section 6.7.3), it asks this server only, and nothing is loaded from elsewhere or around it.
 */

/** Answers GET and HEAD. */
export async function answerPage(request: Request, html: string): Promise<Response> {
  return new Response(request.method === 'HEAD' ? null : html, {
    headers: {
      'Content-Type': 'text/html; charset=utf-8',
      'Content-Security-Policy': await policyOf(html),
      'X-Content-Type-Options': 'nosniff',
      'Referrer-Policy': 'no-referrer',
      'Cross-Origin-Opener-Policy': 'same-origin',
      'Cache-Control': 'no-cache',
    },
  });
}

async function policyOf(html: string): Promise<string> {
  const [scripts, styles] = await Promise.all(['script', 'style'].map((tag) => digests(html, tag)));
  return [
    "default-src 'none'",
    `script-src ${scripts}`,
    `style-src ${styles}`,
    'img-src data:',
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
  ].join('; ');
}

/** Of what stands in elements of this kind, as sources of a policy. */
async function digests(html: string, tag: string): Promise<string> {
  const texts = Array.from(
    html.matchAll(new RegExp(`<${tag}[^>]*>([\\s\\S]*?)</${tag}>`, 'gi')),
    ([, text]) => text,
  );
  if (texts.length === 0) return "'none'";
  const sources = texts.map(async (text) => {
    // As a browser reads it: its parser makes one character of CR LF.
    const bytes = new TextEncoder().encode(text.replace(/\r\n?/g, '\n'));
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    return `'sha256-${btoa(String.fromCharCode(...digest))}'`;
  });
  return (await Promise.all(sources)).join(' ');
}
