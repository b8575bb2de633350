/** Hostile images that once brought an engine down, by seed, with what was done to them. */

export interface Known {
  seed: number;
  found: string;
  mutations: string[];
}

export const CORPUS: Known[] = [
  {
    seed: 735,
    found: 'a search for a free cluster that goes round for ever',
    mutations: [
      'snapshotsOffset (64 bits at 64) = 0x1',
      'a refcount table entry (64 bits at 31232) = 0x0',
      'backingBytes (32 bits at 16) = 5',
      '15 bytes at 23091 = 251adc49486d4b5272e7f87390fc22',
    ],
  },
  {
    seed: 741,
    found: 'the header counted as free, and overwritten',
    mutations: [
      'a refcount table entry (64 bits at 32768) = 0x0',
      'an L2 entry (64 bits at 8224) = 0x100000000000201',
      'the type of an extension (32 bits at 80) = 3799591626',
      'the length of an extension (32 bits at 84) = 4294967295',
    ],
  },
  {
    seed: 100_011_654,
    found: 'a read near the end of the disk that goes on for ever',
    mutations: [
      'an L2 entry (64 bits at 32784) = 0x5b00000000014000',
      'a refcount byte at 114715 = 0',
    ],
  },
];
