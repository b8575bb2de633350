/**
 * The map of a disk: a cell for each segment of it, coloured by what is there, with the guest's
 * reads as flashes. Drawing is frugal, because the machine runs in the same thread: only what has
 * changed is drawn.
 */
import type { Extent } from '../../hosts/api/disk.ts';
import { bytes, percent } from '../page/format.ts';

const SEGMENTS_MAX = 2048;
const FLASH_MS = 450;
const FRAME_MS = 50;
/** Space between cells, in device-independent pixels, where there is room for it. */
const GAP = 1;

type Colours = Record<'absent' | 'data' | 'written' | 'zero' | 'read', string>;

export class DiskMap {
  readonly #canvas: HTMLCanvasElement;
  readonly #pen: CanvasRenderingContext2D;
  readonly #size: number;
  /** Bytes of the disk that a cell stands for. */
  readonly #segment: number;
  readonly #count: number;
  /** Parts of each segment, 0 to 1. */
  readonly #data: Float32Array;
  readonly #zero: Float32Array;
  readonly #written: Uint8Array;
  readonly #flashes = new Map<number, number>();
  readonly #dirty = new Set<number>();
  readonly #resized: ResizeObserver;
  readonly #theme = matchMedia('(prefers-color-scheme: dark)');
  #colours!: Colours;
  #columns = 1;
  #pitch = 1;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `written` is what `written` gave before, for the same disk. */
  constructor(canvas: HTMLCanvasElement, size: number, clusterSize: number, written?: string) {
    this.#canvas = canvas;
    this.#pen = canvas.getContext('2d')!;
    this.#size = size;
    this.#segment = Math.ceil(size / SEGMENTS_MAX / clusterSize) * clusterSize;
    this.#count = Math.ceil(size / this.#segment);
    this.#data = new Float32Array(this.#count);
    this.#zero = new Float32Array(this.#count);
    this.#written = new Uint8Array(this.#count);
    if (written)
      Array.from(atob(written), (character, at) => this.#setBits(at * 8, character.charCodeAt(0)));
    this.#resized = new ResizeObserver(() => this.#layOut());
    this.#resized.observe(canvas);
    this.#theme.addEventListener('change', this.#repaint);
    this.#layOut();
  }

  /** Which segments the guest has written, to be kept. */
  get written(): string {
    let text = '';
    for (let at = 0; at < this.#count; at += 8) {
      let byte = 0;
      for (let bit = 0; bit < 8; bit++) byte |= (this.#written[at + bit] ?? 0) << bit;
      text += String.fromCharCode(byte);
    }
    return btoa(text);
  }

  /** Takes over what the overlay says of the whole disk. */
  show(extents: Iterable<Extent>): void {
    const data = new Float32Array(this.#count);
    const zero = new Float32Array(this.#count);
    for (const extent of extents) {
      if (extent.state === 'absent') continue;
      this.#spread(extent, extent.state === 'zero' ? zero : data);
    }
    for (let i = 0; i < this.#count; i++)
      if (data[i] !== this.#data[i] || zero[i] !== this.#zero[i]) this.#dirty.add(i);
    this.#data.set(data);
    this.#zero.set(zero);
    this.#describe();
    this.#drawSoon();
  }

  guestRead(offset: number, length: number): void {
    const now = performance.now();
    for (const segment of this.#segments(offset, length)) this.#flashes.set(segment, now);
    this.#drawSoon();
  }

  guestWrote(offset: number, length: number): void {
    for (const segment of this.#segments(offset, length)) {
      this.#written[segment] = 1;
      this.#dirty.add(segment);
    }
    this.#drawSoon();
  }

  end(): void {
    this.#resized.disconnect();
    this.#theme.removeEventListener('change', this.#repaint);
    clearTimeout(this.#timer);
    this.#flashes.clear();
    this.#pen.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#canvas.setAttribute('aria-label', 'Map of the disk');
  }

  readonly #repaint = (): void => {
    const style = getComputedStyle(this.#canvas);
    // A property is resolved to a plain colour only where it is used.
    const colour = (name: keyof Colours): string => {
      this.#canvas.style.color = `var(--map-${name})`;
      return style.color;
    };
    this.#colours = {
      absent: colour('absent'),
      data: colour('data'),
      written: colour('written'),
      zero: colour('zero'),
      read: colour('read'),
    };
    this.#canvas.style.color = '';
    this.#pen.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    for (let i = 0; i < this.#count; i++) this.#draw(i, 0);
  };

  /**
   * Cells as large as the room that the style gives allows; what is left of it at the bottom is
   * given up.
   */
  #layOut(): void {
    const ratio = devicePixelRatio;
    this.#canvas.style.height = '';
    const width = Math.max(1, Math.round(this.#canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.#canvas.clientHeight * ratio));
    let pitch = Math.max(1, Math.floor(Math.sqrt((width * height) / this.#count)));
    while (pitch > 1 && Math.floor(width / pitch) * Math.floor(height / pitch) < this.#count)
      pitch--;
    this.#pitch = pitch;
    this.#columns = Math.max(1, Math.floor(width / pitch));
    this.#canvas.width = width;
    this.#canvas.height = Math.ceil(this.#count / this.#columns) * pitch;
    this.#canvas.style.height = `${this.#canvas.height / ratio}px`;
    this.#repaint();
  }

  #spread(extent: Extent, into: Float32Array): void {
    for (const i of this.#segments(extent.offset, extent.length)) {
      const start = Math.max(extent.offset, i * this.#segment);
      const end = Math.min(extent.offset + extent.length, (i + 1) * this.#segment);
      into[i] += (end - start) / Math.min(this.#segment, this.#size - i * this.#segment);
    }
  }

  *#segments(offset: number, length: number): Generator<number> {
    const last = Math.min(this.#count - 1, Math.floor((offset + length - 1) / this.#segment));
    for (let i = Math.floor(offset / this.#segment); i <= last; i++) yield i;
  }

  #setBits(at: number, byte: number): void {
    for (let bit = 0; bit < 8 && at + bit < this.#count; bit++)
      this.#written[at + bit] = (byte >> bit) & 1;
  }

  #drawSoon(): void {
    this.#timer ??= setTimeout(() => requestAnimationFrame(() => this.#frame()), FRAME_MS);
  }

  #frame(): void {
    this.#timer = undefined;
    const now = performance.now();
    for (const [segment, since] of this.#flashes) {
      const strength = 1 - (now - since) / FLASH_MS;
      if (strength <= 0) this.#flashes.delete(segment);
      this.#dirty.delete(segment);
      this.#draw(segment, Math.max(0, strength));
    }
    for (const segment of this.#dirty) this.#draw(segment, 0);
    this.#dirty.clear();
    if (this.#flashes.size > 0) this.#drawSoon();
  }

  #draw(segment: number, flash: number): void {
    const pen = this.#pen;
    const gap = this.#pitch > 3 ? Math.round(GAP * devicePixelRatio) : 0;
    const side = this.#pitch - gap;
    const x = (segment % this.#columns) * this.#pitch;
    const y = Math.floor(segment / this.#columns) * this.#pitch;
    const fill = (colour: string, strength: number): void => {
      pen.globalAlpha = Math.min(1, strength);
      pen.fillStyle = colour;
      pen.fillRect(x, y, side, side);
    };
    fill(this.#colours.absent, 1);
    if (this.#zero[segment] > 0) fill(this.#colours.zero, this.#zero[segment]);
    if (this.#data[segment] > 0) fill(this.#colours.data, this.#data[segment]);
    if (this.#written[segment]) fill(this.#colours.written, 1);
    if (flash > 0) fill(this.#colours.read, flash);
  }

  #describe(): void {
    const part = (cells: Float32Array): number =>
      cells.reduce((sum, value) => sum + value, 0) / this.#count;
    const written = this.#written.reduce((sum, value) => sum + value, 0);
    const text = `${percent(part(this.#data) + part(this.#zero))} of ${bytes(this.#size)} is copied, ${percent(part(this.#zero))} of it as zeros`;
    this.#canvas.setAttribute(
      'aria-label',
      `Map of the disk: ${text}; the machine has written in ${written} of ${this.#count} places`,
    );
  }
}
