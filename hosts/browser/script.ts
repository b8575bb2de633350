/** Starting a worker by its script's address, as a page with Trusted Types wants it. */

/** Its name in the page's `trusted-types`. */
export const POLICY = 'millrace';

interface ScriptPolicy {
  createScriptURL(url: string): string;
}

type PolicyFactory = { createPolicy(name: string, rules: ScriptPolicy): ScriptPolicy };

let policy: ScriptPolicy | undefined;

/** The address as a page with Trusted Types wants it; the types know it as text. */
function trusted(url: string): string {
  const { trustedTypes } = globalThis as { trustedTypes?: PolicyFactory };
  if (trustedTypes === undefined) return url;
  policy ??= trustedTypes.createPolicy(POLICY, { createScriptURL: (url) => url });
  return policy.createScriptURL(url);
}

/** Starts a worker by its script's address. */
export function startScript(url: string): Worker {
  return new Worker(trusted(url), { type: 'module', name: 'millrace' });
}
