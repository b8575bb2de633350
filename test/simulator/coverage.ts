/**
 * Which lines of the engine runs reach: every statement is given a byte of the memory below the
 * engine's own, and sets it. The engine otherwise does what it always does, as the addresses that
 * it lays out for itself only move.
 */
import { Parser } from 'assemblyscript';
import { buildEngine } from './build.ts';

/** Where the bytes of the statements are: [MARKS_AT, MARKS_END). Address 0 stays unused. */
const MARKS_AT = 8;
const MARKS_END = 32768;

interface Statement {
  path: string;
  line: number;
}

/** The parts of the compiler's syntax tree that are walked here. */
interface Node {
  range: { start: number; end: number };
  statements?: Node[];
  cases?: Node[];
  members?: Node[];
  body?: Node | null;
  ifTrue?: Node;
  ifFalse?: Node | null;
}

export interface FileCoverage {
  path: string;
  lines: number;
  reached: number;
  /** Lines that were never reached, and their text. */
  missed: { line: number; text: string }[];
}

/** Bases of other programs' formats, which the simulator has none of: test/formats reads them. */
const OTHER_FORMATS = /formats\/(blocks|crc32c|parallels|qed|vdi|vhdx?|vmdk)(\.ts)?$/;

export class Coverage {
  readonly #statements: Statement[] = [];
  readonly #sources = new Map<string, string[]>();
  readonly #reached = new Uint8Array(MARKS_END - MARKS_AT);

  /** The engine with its statements marked. */
  build(): Promise<WebAssembly.Module> {
    // The compiler may ask for a file more than once.
    const marked = new Map<string, string>();
    const rewrite = (path: string, source: string): string => {
      if (!marked.has(path)) marked.set(path, this.#mark(path, source));
      return marked.get(path)!;
    };
    return buildEngine(rewrite, ['--memoryBase', String(MARKS_END)]);
  }

  /** Notes what an engine has reached that ran in this memory. */
  add(memory: Uint8Array): void {
    for (let i = 0; i < this.#statements.length; i++) this.#reached[i] |= memory[MARKS_AT + i];
  }

  /**
   * By file, those with the most missed lines first. A line is reached when all its statements are.
   */
  report(): FileCoverage[] {
    const missed = new Map<string, Set<number>>();
    const all = new Map<string, Set<number>>();
    this.#statements.forEach(({ path, line }, index) => {
      for (const lines of this.#reached[index] ? [all] : [all, missed])
        lines.set(path, (lines.get(path) ?? new Set()).add(line));
    });
    const files = [...all].map(([path, lines]) => {
      const text = this.#sources.get(path)!;
      const list = [...(missed.get(path) ?? [])].map((line) => ({
        line,
        text: text[line - 1].trim(),
      }));
      return { path, lines: lines.size, reached: lines.size - list.length, missed: list };
    });
    return files.sort((a, b) => b.missed.length - a.missed.length);
  }

  total(): { lines: number; reached: number } {
    const files = this.report();
    const sum = (pick: 'lines' | 'reached'): number =>
      files.reduce((total, file) => total + file[pick], 0);
    return { lines: sum('lines'), reached: sum('reached') };
  }

  #mark(path: string, source: string): string {
    if (OTHER_FORMATS.test(path)) return source;
    this.#sources.set(path, source.split('\n'));
    const parser = new Parser();
    parser.parseFile(source, path, true);
    const inserts: [at: number, text: string][] = [];
    const root = parser.sources[0] as unknown as Node;
    for (const declaration of root.statements!) this.#walk(declaration, path, source, inserts);
    let marked = '';
    let from = 0;
    for (const [at, text] of inserts.sort(([a], [b]) => a - b)) {
      marked += source.slice(from, at) + text;
      from = at;
    }
    return marked + source.slice(from);
  }

  #walk(node: Node, path: string, source: string, inserts: [number, string][]): void {
    for (const statement of node.statements ?? []) {
      inserts.push([statement.range.start, this.#marker(path, source, statement)]);
      this.#walk(statement, path, source, inserts);
    }
    for (const part of [...(node.cases ?? []), ...(node.members ?? [])])
      this.#walk(part, path, source, inserts);
    for (const branch of [node.body, node.ifTrue, node.ifFalse]) {
      if (!branch) continue;
      // A statement that stands alone becomes a block.
      if (!branch.statements)
        inserts.push([branch.range.start, `{ ${this.#marker(path, source, branch)}`]);
      this.#walk(branch, path, source, inserts);
      if (!branch.statements) inserts.push([afterSemicolon(source, branch.range.end), ' }']);
    }
  }

  #marker(path: string, source: string, { range }: Node): string {
    const address = MARKS_AT + this.#statements.length;
    if (address >= MARKS_END) throw new Error('there are more statements than bytes to mark them');
    this.#statements.push({ path, line: source.slice(0, range.start).split('\n').length });
    return `store<u8>(${address}, 1); `;
  }
}

function afterSemicolon(source: string, end: number): number {
  return source[end] === ';' ? end + 1 : end;
}
