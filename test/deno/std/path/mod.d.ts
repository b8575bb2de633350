/** The path functions that the tests use: the bundle on npm comes without types. */
export declare function join(path: string, ...paths: string[]): string;
