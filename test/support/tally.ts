/**
 * A reporter that ends a run with one plain line: how many tests passed, failed and were skipped.
 */
import type { Reporter, TestModule } from 'vitest/node';

export class Tally implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const count = { passed: 0, failed: 0, skipped: 0, pending: 0 };
    for (const module of modules) {
      for (const test of module.children.allTests()) count[test.result().state]++;
      // A file that cannot be loaded has no tests, and has failed.
      if (module.errors().length) count.failed++;
    }
    console.log(
      `\n${count.passed} passed, ${count.failed} failed, ${count.skipped + count.pending} skipped`,
    );
  }
}
