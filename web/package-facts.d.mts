/** By the names that the pages use: see env.d.ts. */
export declare const FACTS: Record<string, string>;
