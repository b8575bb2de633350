/**
 * The client's side of the handshake ("Fixed newstyle negotiation"): TLS where it is wanted, the
 * richest replies that the server has, `base:allocation`, and the export. What a server says here
 * is checked before anything is made of it, and is bounded.
 */
import { Failure } from '../retry.ts';
import type { NbdConnection } from './duplex.ts';
import { ByteReader, ByteWriter } from './duplex.ts';
import {
  emitClientFlags,
  emitGo,
  emitMetaContextQuery,
  emitOption,
  OptionData,
  parseBlockSizes,
  parseExport,
  parseGreeting,
  parseOptionReply,
  startsGreeting,
  textOf,
} from './options.ts';
import type { BlockSizes, HeaderStyle } from './protocol.ts';
import {
  BLOCK_SIZES_DEFAULT,
  ExportFlag,
  GREETING_BYTES,
  HandshakeFlag,
  Info,
  MAGIC_BYTES,
  OPTION_REPLY_HEADER_BYTES,
  Option,
  OptionReply,
  RESERVED_BYTES,
  STRING_BYTES_MAX,
} from './protocol.ts';
import type { NbdPlace } from './uri.ts';

/** Replies to one option. */
const REPLIES_MAX = 1024;
/** Data of one reply: a string, with what stands before it. */
const REPLY_BYTES_MAX: number = 2 * STRING_BYTES_MAX;
/** Names that a message lists of the exports that there are. */
const NAMES_MAX = 8;
const EXPORT_BYTES = 10;
const BLOCK_SIZES_BYTES = 12;
const MINIMUM_MAX = 64 * 1024;

/** What the handshake has come to. */
export interface Negotiated {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;
  readonly style: HeaderStyle;
  /** Of the export, in bytes. */
  readonly size: number;
  /** ExportFlag. */
  readonly flags: number;
  readonly blocks: BlockSizes;
  /** The number that `base:allocation` has here; undefined where the server has none. */
  readonly allocation: number | undefined;
}

interface Answer {
  type: number;
  data: Uint8Array;
}

/**
 * Comes to the export of a connection that has just been made; `use` is told what it is read and
 * written by, and once more where TLS has changed that; `greeted`, that an NBD server is there.
 * @throws Failure where the server refuses, or is none
 */
export async function negotiate(
  connection: NbdConnection,
  place: NbdPlace,
  use: (reader: ByteReader, writer: ByteWriter) => void,
  greeted: () => void,
): Promise<Negotiated> {
  let talk = new Talk(connection);
  use(talk.reader, talk.writer);
  const noZeroes = await talk.greet();
  greeted();
  if (place.tls !== undefined) {
    talk = new Talk(await talk.startTls(connection));
    use(talk.reader, talk.writer);
  }
  const style = await chosenStyle(talk);
  const allocation =
    style === 'simple' ? undefined : await contextOf(talk, place.exportName, 'base:allocation');
  const told = await goTo(talk, place.exportName, noZeroes);
  return { reader: talk.reader, writer: talk.writer, style, allocation, ...told };
}

async function chosenStyle(talk: Talk): Promise<HeaderStyle> {
  if (await talk.has(Option.extendedHeaders)) return 'extended';
  return (await talk.has(Option.structuredReply)) ? 'structured' : 'simple';
}

async function contextOf(talk: Talk, name: string, context: string): Promise<number | undefined> {
  const answers = await talk.ask(Option.setMetaContext, emitMetaContextQuery(name, context));
  for (const { type, data } of answers) {
    if (type !== OptionReply.metaContext) continue;
    const fields = new OptionData(data);
    const id = fields.u32();
    if (id !== undefined && fields.string(data.length - 4) === context) return id;
  }
  return undefined;
}

async function goTo(
  talk: Talk,
  name: string,
  noZeroes: boolean,
): Promise<Pick<Negotiated, 'size' | 'flags' | 'blocks'>> {
  const answers = await talk.ask(Option.go, emitGo(name, [Info.blockSize]));
  const last = answers.at(-1)!;
  if (last.type === OptionReply.unsupported) {
    const told = await talk.exportName(name, noZeroes);
    return checked({ ...told, blocks: BLOCK_SIZES_DEFAULT });
  }
  if (last.type !== OptionReply.ack) throw await refusal(talk, name, last);
  const infos = answers.filter(({ type }) => type === OptionReply.info);
  const told = infoOf(infos, Info.export, EXPORT_BYTES);
  if (told === undefined) throw broken('it tells no size of the export');
  const sizes = infoOf(infos, Info.blockSize, BLOCK_SIZES_BYTES);
  return checked({
    ...parseExport(told),
    blocks: sizes === undefined ? BLOCK_SIZES_DEFAULT : parseBlockSizes(sizes),
  });
}

function infoOf(infos: readonly Answer[], wanted: number, length: number): Uint8Array | undefined {
  const found = infos.find(({ data }) => new OptionData(data).u16() === wanted)?.data.subarray(2);
  if (found === undefined || found.length === length) return found;
  throw broken(`what it tells of the export has ${found.length} bytes, not ${length}`);
}

/** "Block sizes": powers of two, and a maximum of whole minimal blocks. */
function checked(
  told: Pick<Negotiated, 'size' | 'flags' | 'blocks'>,
): Pick<Negotiated, 'size' | 'flags' | 'blocks'> {
  const { minimum, preferred, maximum } = told.blocks;
  if (!Number.isSafeInteger(told.size))
    throw new Failure('EUNSUPPORTED', `the export has ${told.size} bytes, more than 8 PiB`);
  if (!(told.flags & ExportFlag.hasFlags)) throw broken('its flags of the export are none');
  const isPower = (value: number): boolean => value > 0 && Number.isInteger(Math.log2(value));
  if (
    !isPower(minimum) ||
    minimum > MINIMUM_MAX ||
    !isPower(preferred) ||
    preferred < minimum ||
    maximum < preferred ||
    (maximum % minimum !== 0 && maximum !== 0xffffffff)
  )
    throw broken(`invalid block sizes: ${minimum}, ${preferred} and ${maximum} bytes`);
  return told;
}

async function refusal(talk: Talk, name: string, { type, data }: Answer): Promise<Failure> {
  const said = textOf(data);
  const words = said ? `: ${said}` : '';
  if (type === OptionReply.unknown) {
    const names = await talk.exports().catch(() => []);
    const list = names.length > 0 ? `; it has ${names.join(', ')}` : words;
    return new Failure('ENOENT', `the server has no export '${name}'${list}`);
  }
  if (type === OptionReply.tlsRequired)
    return new Failure('EACCES', 'the server wants TLS: give the URI as nbds:');
  if (type === OptionReply.policy)
    return new Failure('EACCES', `the server does not allow this export${words}`);
  if (type === OptionReply.shutdown)
    return new Failure('EIO', 'the server is shutting down', { transient: true });
  return new Failure('EIO', `the server refuses the export (error ${type & 0xffff}${words})`);
}

/** What servers of other protocols answer to, and what their answers begin with. */
const QUESTIONS: readonly { name: string; asked: Uint8Array; answers: readonly string[] }[] = [
  { name: 'HTTP', asked: new TextEncoder().encode('HEAD / HTTP/1.0\r\n\r\n'), answers: ['HTT'] },
  {
    name: 'TLS from the start',
    // A record with a ClientHello that has nothing in it, to which there is an alert.
    asked: new Uint8Array([0x16, 3, 1, 0, 4, 1, 0, 0, 0]),
    answers: ['\x15\x03', '\x16\x03'],
  },
];
const ANSWER_BYTES = 3;

/**
 * Which protocol a server speaks that has not greeted by itself, as NBD servers do: it is asked by
 * those that it may be. Undefined where that is not known.
 */
export async function otherProtocol(
  connect: () => Promise<NbdConnection>,
): Promise<string | undefined> {
  for (const { name, asked, answers } of QUESTIONS) {
    const { readable, writable } = await connect();
    const [reader, writer] = [new ByteReader(readable), new ByteWriter(writable)];
    writer.push([asked]);
    // One that hangs up may answer to another.
    const bytes = await reader.take(ANSWER_BYTES).catch(() => new Uint8Array(0));
    const reason = new Error('it has been asked');
    writer.abort(reason);
    reader.cancel(reason);
    const said = String.fromCharCode(...bytes);
    if (answers.some((answer) => said.startsWith(answer))) return name;
  }
  return undefined;
}

/** What no server would say that keeps to the protocol. */
export function broken(what: string): Failure {
  return new Failure('EIO', `the server does not keep to the NBD protocol: ${what}`);
}

/** Options and their answers over one connection, or what it became by TLS. */
class Talk {
  readonly reader: ByteReader;
  readonly writer: ByteWriter;

  constructor({ readable, writable }: NbdConnection) {
    this.reader = new ByteReader(readable);
    this.writer = new ByteWriter(writable);
  }

  /** Whether the server leaves out the zeroes behind its answer to NBD_OPT_EXPORT_NAME. */
  async greet(): Promise<boolean> {
    const greeting = parseGreeting(await this.#greeting());
    if (greeting === 'other') throw new Failure('EIO', 'what answers there is no NBD server');
    if (greeting === 'oldstyle' || !(greeting & HandshakeFlag.fixedNewstyle))
      throw new Failure(
        'EUNSUPPORTED',
        'the server speaks an old form of NBD only; a newer one of "fixed newstyle" is needed',
      );
    const noZeroes = greeting & HandshakeFlag.noZeroes;
    this.writer.push([emitClientFlags(HandshakeFlag.fixedNewstyle | noZeroes)]);
    return noZeroes !== 0;
  }

  /** Of another protocol, no more is waited for than tells that. */
  async #greeting(): Promise<Uint8Array> {
    const bytes = new Uint8Array(GREETING_BYTES);
    bytes.set(await this.reader.take(MAGIC_BYTES));
    if (startsGreeting(bytes)) await this.reader.fill(bytes.subarray(MAGIC_BYTES));
    return bytes;
  }

  async startTls({ startTls }: NbdConnection): Promise<NbdConnection> {
    const [{ type }] = await this.ask(Option.startTls);
    if (type !== OptionReply.ack) throw new Failure('EIO', 'the server has no TLS');
    if (startTls === undefined)
      throw new Failure('EUNSUPPORTED', 'TLS cannot be used on this connection here');
    if (this.reader.available > 0) throw broken('it goes on without TLS behind its agreement');
    await this.writer.drained();
    this.reader.release();
    this.writer.release();
    return startTls();
  }

  /** Whether the server agrees to an option without data. */
  async has(option: number): Promise<boolean> {
    const { type } = (await this.ask(option)).at(-1)!;
    if (type === OptionReply.tlsRequired)
      throw new Failure('EACCES', 'the server wants TLS: give the URI as nbds:');
    return type === OptionReply.ack;
  }

  /** The answers to an option, up to the final one. */
  async ask(option: number, data?: Uint8Array): Promise<Answer[]> {
    this.writer.push([emitOption(option, data)]);
    const answers: Answer[] = [];
    while (answers.length < REPLIES_MAX) {
      const header = parseOptionReply(await this.reader.take(OPTION_REPLY_HEADER_BYTES));
      if (header === undefined || header.option !== option)
        throw broken('it answers another option than it was asked for');
      const { type, length } = header;
      if (length > REPLY_BYTES_MAX)
        throw broken(`an answer of ${length} bytes to an option is too long`);
      // A copy, so that what else came with it is not kept (`slice` of a Buffer would be none).
      answers.push({ type, data: new Uint8Array(await this.reader.take(length)) });
      if (type === OptionReply.ack || type >= OptionReply.unsupported) return answers;
    }
    throw broken(`an option has more than ${REPLIES_MAX} answers`);
  }

  /** NBD_OPT_EXPORT_NAME, for servers that have no NBD_OPT_GO: where they refuse, they go away. */
  async exportName(name: string, noZeroes: boolean): Promise<{ size: number; flags: number }> {
    this.writer.push([emitOption(Option.exportName, new TextEncoder().encode(name))]);
    const told = await this.reader.take(EXPORT_BYTES).catch((cause) => {
      throw new Failure('ENOENT', `the server has no export '${name}', it seems: it hangs up`, {
        cause,
      });
    });
    const answer = parseExport(told);
    if (!noZeroes) await this.reader.skip(RESERVED_BYTES);
    return answer;
  }

  /** The names of some of the exports that there are, as a message tells them. */
  async exports(): Promise<string[]> {
    const names: string[] = [];
    for (const { type, data } of await this.ask(Option.list)) {
      const name = type === OptionReply.server ? new OptionData(data).string() : undefined;
      if (name !== undefined) names.push(`'${name}'`);
    }
    return names.length > NAMES_MAX ? [...names.slice(0, NAMES_MAX), '…'] : names;
  }
}
