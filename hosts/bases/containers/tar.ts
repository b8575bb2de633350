/**
 * tar: of an archive that can be read anywhere, the files are looked through, and the disk's bytes
 * are where they stand; of one that comes in order, the first file is taken that is a disk.
 */
import type { BlockSource } from '../../api/block.ts';
import { bytesAt, corrupt } from './bytes.ts';
import { ambiguous, chosen, disksOfOvf, isDiskName, missingMember, plainName } from './members.ts';
import { sourceOfPieces } from './pieces.ts';
import { ByteStream, Reader } from './stream.ts';
import type { TarInput, TarMember } from './tar-header.ts';
import { TEXT_BYTES_MAX, tarMembers } from './tar-header.ts';

/** Each costs a request. */
const MEMBERS_MAX = 10_000;
const ZEROS = new Uint8Array(64 * 1024);
/** Headers of small files stand close together: one request for several. */
const LOOK_BYTES = 4096;

export interface Member<Source> {
  name: string;
  source: Source;
}

export async function openTar(
  source: BlockSource,
  wanted: string | undefined,
): Promise<Member<BlockSource>> {
  const input = new RandomInput(source);
  const members: TarMember[] = [];
  let ovf: string[] | undefined;
  for await (const member of tarMembers(input)) {
    if (members.length === MEMBERS_MAX)
      throw corrupt(source.name, 'tar', `it holds more than ${MEMBERS_MAX} files`);
    members.push(member);
    ovf ??= await ovfDisks(input, member);
  }
  const disks = members.filter(({ name }) => ovf?.includes(plainName(name)));
  const member = chosen(
    wanted === undefined && disks.length > 0 ? disks : members,
    wanted,
    'tar',
    source.name,
  );
  if (member.at + member.stored > source.size)
    throw corrupt(source.name, 'tar', `it is cut off in '${member.name}'`);
  const whole = [{ offset: 0, length: member.size, at: member.at }];
  const pieces = member.pieces ?? (member.size > 0 ? whole : []);
  return { name: member.name, source: sourceOfPieces(source, member.size, pieces) };
}

class RandomInput implements TarInput {
  readonly #source: BlockSource;
  #at = 0;
  #page: Uint8Array = new Uint8Array(0);

  constructor(source: BlockSource) {
    this.#source = source;
  }

  get name(): string | undefined {
    return this.#source.name;
  }

  async read(at: number, length: number): Promise<Uint8Array> {
    if (at < this.#at || at + length > this.#at + this.#page.length) {
      this.#at = at;
      this.#page = await bytesAt(this.#source, at, Math.max(length, LOOK_BYTES));
    }
    if (this.#page.length < at - this.#at + length)
      throw corrupt(this.name, 'tar', 'it is cut off');
    return this.#page.subarray(at - this.#at, at - this.#at + length);
  }

  async reaches(at: number): Promise<boolean> {
    return at < this.#source.size;
  }
}

/** The disks that an OVF descriptor names; undefined for any other file. */
async function ovfDisks(input: TarInput, member: TarMember): Promise<string[] | undefined> {
  if (!/\.ovf$/i.test(member.name) || member.size > TEXT_BYTES_MAX || member.pieces)
    return undefined;
  const text = new TextDecoder().decode(await input.read(member.at, member.size));
  return disksOfOvf(text).map(plainName);
}

export async function streamTar(
  stream: ByteStream,
  wanted: string | undefined,
): Promise<Member<ByteStream>> {
  const { name } = stream.source;
  const input = new OrderedInput(stream);
  const names: string[] = [];
  let ovf: string[] | undefined;
  const isMeant = (member: TarMember): boolean => {
    if (wanted !== undefined) return plainName(member.name) === plainName(wanted);
    return ovf === undefined ? isDiskName(member.name) : ovf.includes(plainName(member.name));
  };
  for await (const member of tarMembers(input)) {
    if (isMeant(member))
      return {
        name: member.name,
        source: new ByteStream(stream.source, member.size, input.bytesOf(member)),
      };
    names.push(member.name);
    ovf ??= await ovfDisks(input, member);
    if (wanted === undefined && ovf !== undefined && ovf.length > 1)
      throw ambiguous(name, 'tar', ovf);
    if (names.length > MEMBERS_MAX)
      throw corrupt(name, 'tar', `it holds more than ${MEMBERS_MAX} files`);
  }
  throw wanted === undefined
    ? ambiguous(name, 'tar', names)
    : missingMember(name, 'tar', wanted, names);
}

class OrderedInput implements TarInput {
  readonly name: string | undefined;
  readonly #reader: Reader;
  #at = 0;

  constructor(stream: ByteStream) {
    this.name = stream.source.name;
    this.#reader = new Reader(stream, 'tar', this.name);
  }

  async read(at: number, length: number): Promise<Uint8Array> {
    for await (const _ of this.#run(at - this.#at));
    this.#at += length;
    return this.#reader.take(length);
  }

  async reaches(at: number): Promise<boolean> {
    for await (const _ of this.#run(at - this.#at));
    return this.#reader.hasMore();
  }

  /**
   * What the file holds, its holes as well; and goes on to the end of all, where check sums may
   * stand.
   */
  async *bytesOf(member: TarMember): AsyncGenerator<Uint8Array> {
    try {
      let filled = 0;
      const whole = [{ offset: 0, length: member.size, at: member.at }];
      for (const { offset, length, at } of member.pieces ?? whole) {
        for (; filled < offset; filled += Math.min(ZEROS.length, offset - filled))
          yield ZEROS.subarray(0, Math.min(ZEROS.length, offset - filled));
        for await (const _ of this.#run(at - this.#at));
        yield* this.#run(length);
        filled += length;
      }
      for (; filled < member.size; filled += Math.min(ZEROS.length, member.size - filled))
        yield ZEROS.subarray(0, Math.min(ZEROS.length, member.size - filled));
      await this.#reader.skipRest();
    } finally {
      await this.#reader.close();
    }
  }

  async *#run(length: number): AsyncGenerator<Uint8Array> {
    this.#at += length;
    yield* this.#reader.run(length);
  }
}
