/** The header fields of a request, beside `Headers`, which has them in the same way. */
import { describe, expect, it } from 'vitest';
import { Fields } from '../../hosts/bases/http/fields.ts';

describe('header fields', () => {
  it.each<[string, Record<string, string>]>([
    ['none', {}],
    ['names of any case', { Authorization: 'Bearer x', 'x-other': '1' }],
    ['a name twice', { A: '1', a: '2' }],
    ['spaces around a value', { a: ' \t1 2\n' }],
    ['an empty value', { a: '' }],
    ['bytes above ASCII', { a: 'caf\u00e9' }],
  ])('are as Headers has them: %s', (_, given) => {
    expect([...new Fields(given)].sort()).toEqual([...new Headers(given)].sort());
    expect([...new Fields(new Headers(given))].sort()).toEqual([...new Headers(given)].sort());
  });

  it.each<[string, Record<string, string>]>([
    ['a name with a space', { 'a b': '1' }],
    ['no name', { '': '1' }],
    ['a line break in a value', { a: '1\r\nb: 2' }],
    ['a zero in a value', { a: '1\0' }],
    ['what is no byte', { a: '\u20ac' }],
  ])('are refused as by Headers: %s', (_, given) => {
    expect(() => new Headers(given)).toThrow(TypeError);
    expect(() => new Fields(given)).toThrow(TypeError);
  });

  it('are set, asked for and taken away by names of any case', () => {
    const fields = new Fields({ Range: 'bytes=0-1' });
    fields.set('RANGE', 'bytes=2-3');
    expect([fields.get('range'), fields.has('Range')]).toEqual(['bytes=2-3', true]);
    fields.delete('rAnGe');
    expect([fields.get('range'), fields.has('Range')]).toEqual([null, false]);
  });
});
