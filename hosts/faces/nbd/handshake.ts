/**
 * The handshake ("Handshake", fixed newstyle): options are answered one after another until the
 * client has chosen an export, given up, or done what it must not.
 */
import type { NbdConnection } from '../../bases/nbd/duplex.ts';
import { ByteReader, ByteWriter } from '../../bases/nbd/duplex.ts';
import { viewOf } from '../../bases/nbd/fields.ts';
import * as options from '../../bases/nbd/options.ts';
import type { HeaderStyle } from '../../bases/nbd/protocol.ts';
import {
  CLIENT_FLAGS_BYTES,
  HandshakeFlag,
  Info,
  OPTION_HEADER_BYTES,
  Option,
  OptionReply,
} from '../../bases/nbd/protocol.ts';
import type { Export } from './export.ts';
import { OPTION_BYTES_MAX, OPTIONS_MAX, PAYLOAD_BYTES_MAX, SKIP_BYTES_MAX } from './limits.ts';

/** What the server offers, whoever connects. */
export interface Offer {
  exports: ReadonlyMap<string, Export>;
  /** "FORCEDTLS mode": nothing is told before TLS. */
  tlsRequired: boolean;
  isClosing: () => boolean;
}

/** Metadata contexts, by name; an index is their ID. */
const CONTEXTS = ['base:allocation', 'qemu:allocation-depth'] as const;
export const ALLOCATION_DEPTH = 1;

/** What a client has settled on. */
export interface Agreement {
  target: Export;
  style: HeaderStyle;
  /** Indices in CONTEXTS. */
  contexts: readonly number[];
}

/** What an option has led to: an export, the end of the connection, or the next option. */
type Step = Agreement | 'end' | undefined;

export class Handshake {
  readonly #offer: Offer;
  #connection: NbdConnection;
  #reader: ByteReader;
  #writer: ByteWriter;
  #noZeroes = false;
  #isSecure = false;
  #style: HeaderStyle = 'simple';
  /** What the last NBD_OPT_SET_META_CONTEXT chose, and for which export. */
  #chosen: { target: Export; contexts: readonly number[] } | undefined;

  constructor(connection: NbdConnection, offer: Offer) {
    this.#offer = offer;
    this.#connection = connection;
    this.#reader = new ByteReader(connection.readable);
    this.#writer = new ByteWriter(connection.writable);
  }

  get reader(): ByteReader {
    return this.#reader;
  }

  get writer(): ByteWriter {
    return this.#writer;
  }

  /**
   * Undefined where no export was chosen: the connection is to be closed.
   * @throws ConnectionEnded
   */
  async run(): Promise<Agreement | undefined> {
    this.#writer.push([options.emitGreeting()]);
    const flags = viewOf(await this.#reader.take(CLIENT_FLAGS_BYTES)).getUint32(0);
    // "Client flags": one that we do not know ends the connection.
    if (flags & ~(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes)) return undefined;
    this.#noZeroes = (flags & HandshakeFlag.noZeroes) !== 0;
    for (let count = 0; count < OPTIONS_MAX; count++) {
      const header = options.parseOption(await this.#reader.take(OPTION_HEADER_BYTES));
      if (header === undefined) return undefined;
      const step = await this.#option(header);
      // Nothing piles up for a client that asks and does not read.
      await this.#writer.drained();
      if (step === 'end') return undefined;
      if (step) return step;
    }
    return undefined;
  }

  async #option({ option, length }: options.OptionHeader): Promise<Step> {
    if (length > OPTION_BYTES_MAX) {
      if (length > SKIP_BYTES_MAX) return 'end';
      await this.#reader.skip(length);
      if (option === Option.exportName) return 'end';
      if (option === Option.abort) return this.#abort();
      const known = Object.values(Option).some((value) => value === option);
      return known
        ? this.#refuse(
            option,
            OptionReply.tooBig,
            `an option has ${OPTION_BYTES_MAX} bytes at most`,
          )
        : this.#unsupported(option);
    }
    const data = await this.#reader.take(length);
    if (option === Option.abort) return this.#abort();
    if (this.#offer.isClosing()) {
      if (option === Option.exportName) return 'end';
      return this.#refuse(option, OptionReply.shutdown, 'the server is closing');
    }
    if (this.#offer.tlsRequired && !this.#isSecure && option !== Option.startTls) {
      if (option === Option.exportName) return 'end';
      return this.#refuse(option, OptionReply.tlsRequired, 'this server is used with TLS only');
    }
    switch (option) {
      case Option.exportName:
        return this.#exportName(data);
      case Option.list:
        return this.#list(data);
      case Option.startTls:
        return this.#startTls(data);
      case Option.info:
      case Option.go:
        return this.#go(option, data);
      case Option.structuredReply:
        return this.#structuredReply(data);
      case Option.extendedHeaders:
        return this.#extendedHeaders(data);
      case Option.listMetaContext:
      case Option.setMetaContext:
        return this.#metaContext(option, data);
      default:
        return this.#unsupported(option);
    }
  }

  #reply(option: number, type: number, data?: Uint8Array): void {
    this.#writer.push([options.emitOptionReply(option, type, data)]);
  }

  #refuse(option: number, type: number, message: string): undefined {
    this.#writer.push([options.emitOptionError(option, type, message)]);
    return undefined;
  }

  #unsupported(option: number): undefined {
    return this.#refuse(option, OptionReply.unsupported, `option ${option} is not known here`);
  }

  #abort(): 'end' {
    this.#reply(Option.abort, OptionReply.ack);
    return 'end';
  }

  /** The export of a name; the empty one means the only export. */
  #find(name: string): Export | undefined {
    const { exports } = this.#offer;
    const found = exports.get(name);
    if (found !== undefined || name !== '' || exports.size !== 1) return found;
    return exports.values().next().value;
  }

  #exportName(data: Uint8Array): Step {
    const name = options.textOf(data);
    const target = name === undefined ? undefined : this.#find(name);
    // Extended headers go with NBD_OPT_GO only. There is no way to say what is wrong.
    if (target === undefined || this.#style === 'extended') return 'end';
    const agreement = this.#agree(target);
    const flags = target.flags(this.#style, agreement.contexts.length > 0);
    this.#writer.push([options.emitExportName(target.disk.size, flags, this.#noZeroes)]);
    return agreement;
  }

  #agree(target: Export): Agreement {
    const contexts = this.#chosen?.target === target ? this.#chosen.contexts : [];
    return { target, style: this.#style, contexts };
  }

  #list(data: Uint8Array): undefined {
    if (data.length > 0) return this.#hasData(Option.list);
    for (const name of this.#offer.exports.keys())
      this.#reply(Option.list, OptionReply.server, options.emitServer(name));
    this.#reply(Option.list, OptionReply.ack);
  }

  #hasData(option: number): undefined {
    return this.#refuse(option, OptionReply.invalid, `option ${option} takes no data`);
  }

  /**
   * "TLS support": what was settled before counts no more, and what was sent ahead in the clear is
   * not taken for what TLS protects.
   */
  async #startTls(data: Uint8Array): Promise<Step> {
    const option = Option.startTls;
    if (data.length > 0) return this.#hasData(option);
    if (this.#isSecure) return this.#refuse(option, OptionReply.invalid, 'TLS is in use already');
    if (!this.#offer.tlsRequired || this.#connection.startTls === undefined)
      return this.#refuse(option, OptionReply.policy, 'this server has no certificate for TLS');
    if (this.#reader.available > 0) return 'end';
    this.#reply(option, OptionReply.ack);
    await this.#writer.drained();
    this.#reader.release();
    this.#writer.release();
    this.#connection = await this.#connection.startTls();
    this.#reader = new ByteReader(this.#connection.readable);
    this.#writer = new ByteWriter(this.#connection.writable);
    this.#isSecure = true;
    this.#style = 'simple';
    this.#chosen = undefined;
    return undefined;
  }

  /** NBD_OPT_INFO and NBD_OPT_GO. */
  #go(option: number, data: Uint8Array): Step {
    const fields = new options.OptionData(data);
    const name = fields.string();
    const count = fields.u16();
    const asked = new Set<number>();
    for (let i = 0; i < (count ?? 0); i++) {
      const info = fields.u16();
      if (info === undefined) return this.#malformed(option);
      asked.add(info);
    }
    if (name === undefined || count === undefined || !fields.atEnd) return this.#malformed(option);
    const target = this.#find(name);
    if (target === undefined) return this.#noExport(option, name);
    const agreement = this.#agree(target);
    this.#tellExport(option, agreement, asked);
    return option === Option.go ? agreement : undefined;
  }

  #tellExport(option: number, { target, contexts }: Agreement, asked: ReadonlySet<number>): void {
    const flags = target.flags(this.#style, contexts.length > 0);
    const tell = (data: Uint8Array): void => this.#reply(option, OptionReply.info, data);
    tell(options.emitInfoExport(target.disk.size, flags));
    if (asked.has(Info.name)) tell(options.emitInfoText(Info.name, target.name));
    if (asked.has(Info.blockSize))
      tell(options.emitInfoBlockSize(1, target.preferredBlock, PAYLOAD_BYTES_MAX));
    this.#reply(option, OptionReply.ack);
  }

  #malformed(option: number): undefined {
    return this.#refuse(option, OptionReply.invalid, `option ${option}: its data is malformed`);
  }

  #noExport(option: number, name: string): undefined {
    const names = [...this.#offer.exports.keys()].map((each) => `'${each}'`).join(', ');
    return this.#refuse(
      option,
      OptionReply.unknown,
      `there is no export '${name}'; there are ${names}`,
    );
  }

  #structuredReply(data: Uint8Array): undefined {
    const option = Option.structuredReply;
    if (data.length > 0) return this.#hasData(option);
    if (this.#style === 'extended')
      return this.#refuse(
        option,
        OptionReply.extendedHeadersRequired,
        'extended headers are in use already',
      );
    this.#style = 'structured';
    this.#reply(option, OptionReply.ack);
  }

  #extendedHeaders(data: Uint8Array): undefined {
    if (data.length > 0) return this.#hasData(Option.extendedHeaders);
    this.#style = 'extended';
    this.#reply(Option.extendedHeaders, OptionReply.ack);
  }

  /** NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT ("Metadata querying"). */
  #metaContext(option: number, data: Uint8Array): undefined {
    const sets = option === Option.setMetaContext;
    // Whatever comes of it, what was chosen before is not any more.
    if (sets) this.#chosen = undefined;
    if (this.#style === 'simple')
      return this.#refuse(
        option,
        OptionReply.invalid,
        'structured replies must be agreed on first',
      );
    const fields = new options.OptionData(data);
    const name = fields.string();
    const count = fields.u32();
    if (name === undefined || count === undefined) return this.#malformed(option);
    const queries: string[] = [];
    for (let i = 0; i < count; i++) {
      const query = fields.string();
      if (query === undefined) return this.#malformed(option);
      queries.push(query);
    }
    if (!fields.atEnd) return this.#malformed(option);
    const target = this.#find(name);
    if (target === undefined) return this.#noExport(option, name);
    const contexts = CONTEXTS.flatMap((context, id) =>
      queries.some((query) => matches(query, context, sets)) || (!sets && count === 0) ? [id] : [],
    );
    for (const id of contexts)
      this.#reply(
        option,
        OptionReply.metaContext,
        options.emitMetaContext(sets ? id : 0, CONTEXTS[id]),
      );
    if (sets) this.#chosen = { target, contexts };
    this.#reply(option, OptionReply.ack);
  }
}

/**
 * A namespace alone (`base:`) means all its contexts where they are listed, and none where they are
 * chosen.
 */
function matches(query: string, context: string, sets: boolean): boolean {
  return query === context || (!sets && query === context.slice(0, context.indexOf(':') + 1));
}
