/**
 * A virtual clock: what is to happen, in the order of its time. Nothing here waits; a simulated
 * hour takes as long as its events.
 */

interface Event {
  time: number;
  /** Decides between events of the same time. */
  order: number;
  run(): void;
}

export class Events {
  now = 0;
  #heap: Event[] = [];

  get length(): number {
    return this.#heap.length;
  }

  /** `order` decides between events of the same time: a random number mixes them. */
  after(delay: number, order: number, run: () => void): void {
    const heap = this.#heap;
    const event = { time: this.now + delay, order, run };
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!earlier(event, heap[parent])) break;
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = event;
  }

  /** Lets the next thing happen; false when there is none. */
  next(): boolean {
    const heap = this.#heap;
    if (heap.length === 0) return false;
    const first = heap[0];
    const last = heap.pop()!;
    if (heap.length) this.#sink(last);
    this.now = first.time;
    first.run();
    return true;
  }

  #sink(event: Event): void {
    const heap = this.#heap;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && earlier(heap[child + 1], heap[child])) child++;
      if (!earlier(heap[child], event)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = event;
  }
}

function earlier(a: Event, b: Event): boolean {
  return a.time < b.time || (a.time === b.time && a.order < b.order);
}
