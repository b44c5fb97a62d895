/** N-gram counts and their mixture with a network, as kernels/native/counts.h and counts_mix.h compute it. */

import { logarithm } from "./functions.js";

const [NODES, BLOCK] = [16, 64]; // of a block of nodes: symbols from 16 on, rows from 32, children from 48
const [KINDS, CLASSES, LARGE] = [4, 3, 255];
const kindOf = (size) => (size <= 2 ? size - 1 : size <= 4 ? 2 : 3);
const classOf = (count) => (count < 3 ? count - 1 : 2);

/** Where a symbol is among `count` sorted ones from `begin` on; -1 where it is not. */
function find(begin, count, symbol, at) {
  while (count > 1) {
    const half = count >> 1;
    if (at(begin + half) <= symbol) begin += half;
    count -= half;
  }
  return count && at(begin) === symbol ? begin : -1;
}

export class Counts {
  /** `description` and `arrays` are those of the file's header; `boundary` ends contexts. */
  constructor(description, arrays, symbols, boundary) {
    Object.assign(this, { ...description, ...arrays, symbols, boundary });
    this.longest = this.levels.length / 3 - 2;
    this.heads = new Uint32Array(this.nodes.buffer, this.nodes.byteOffset, this.nodes.byteLength / 4);
    this.wordsOfBlock = (BLOCK * this.nodes.BYTES_PER_ELEMENT) / 4;
    this.largeCounts = new Map(Array.from({ length: this.large.length / 2 }, (_, place) => [this.large[2 * place], this.large[2 * place + 1]]));
    this.unigrams = new Float64Array(symbols).fill(1 / symbols);
    this.#visit([], 0, (level, begin, end) => this.#addRow(level, begin, end, this.unigrams));
  }

  /** What comes after ids, of logits (V,) of the network: logits `to` of the mixture for "reading" or "writing". */
  mix(ids, logits, way, to) {
    const p = this.unigrams.slice();
    let deepest = 0;
    const { weights, longest } = this[way];
    this.#visit(ids, this.#contextOf(ids, longest), (level, begin, end) => {
      if (level) this.#addRow(level, begin, end, p);
      deepest = level;
    }, (level, successor) => {
      this.#addEntry(level, successor, p);
      deepest = level;
    });
    const [network, counts] = weights[deepest];
    for (let id = 0; id < to.length; id++) to[id] = network * logits[id] + counts * logarithm(p[id]);
  }

  /** How many of the last ids are a context: back to the boundary. */
  #contextOf(ids, longest) {
    let length = 0;
    while (length < longest && length < ids.length) {
      length++;
      if (ids[ids.length - length] === this.boundary) break;
    }
    return length;
  }

  /** Calls row(level, begin, end) for each context that ends the ids, the shortest first; tail(level, successor) for those that occurred once. */
  #visit(ids, length, row, tail) {
    let node = 0;
    for (let level = 0; ; level++) {
      const own = Math.floor(node / NODES) * BLOCK + (node % NODES);
      const [rows, children] = [this.nodes[own + 32], this.nodes[own + 48]];
      const before = this.#beforeNode(node);
      if (level && !rows) return this.#visitTail(level, before.tails, ids, length, tail);
      if (!rows) return;
      row(level, before.entries, before.entries + rows);
      if (level === length || level === this.longest) return;
      node = find(1 + before.children, children, ids[ids.length - 1 - level], (at) => this.nodes[Math.floor(at / NODES) * BLOCK + 16 + (at % NODES)]);
      if (node < 0) return;
    }
  }

  #beforeNode(node) {
    const block = Math.floor(node / NODES);
    const head = block * this.wordsOfBlock;
    let [entries, children, tails] = [this.heads[head], this.heads[head + 1], this.heads[head + 2]];
    for (let at = block * BLOCK, end = at + (node % NODES); at < end; at++) {
      entries += this.nodes[at + 32];
      children += this.nodes[at + 48];
      if (!this.nodes[at + 32]) tails++;
    }
    return { entries, children, tails };
  }

  #visitTail(level, number, ids, length, tail) {
    const record = this.levels[3 * level + 2] + (number - this.levels[3 * level + 1]) * (this.reach - level + 1);
    tail(level, this.tails[record]);
    for (let deeper = level + 1; deeper <= this.reach && deeper <= length; deeper++) {
      if (this.tails[record + deeper - level] !== ids[ids.length - deeper]) return;
      tail(deeper, this.tails[record]);
    }
  }

  #discount(level, size, count) {
    return this.discounts[(level * KINDS + kindOf(size)) * CLASSES + classOf(count)];
  }

  #addRow(level, begin, end, p) {
    let [total, ones, twos] = [0, 0, 0];
    const count = (entry) => (this.counts[entry] < LARGE ? this.counts[entry] : this.largeCounts.get(entry));
    for (let entry = begin; entry < end; entry++) {
      total += count(entry);
      if (this.counts[entry] === 1) ones++;
      if (this.counts[entry] === 2) twos++;
    }
    const size = end - begin;
    const discount = (of) => this.#discount(level, size, of);
    const scale = 1 / total;
    const backoff = (discount(1) * ones + discount(2) * twos + discount(3) * (size - ones - twos)) * scale;
    for (let id = 0; id < p.length; id++) p[id] *= backoff;
    for (let entry = begin; entry < end; entry++) p[this.successors[entry]] += (count(entry) - discount(count(entry))) * scale;
  }

  /** A context that occurred once. */
  #addEntry(level, successor, p) {
    const discount = this.#discount(level, 1, 1);
    for (let id = 0; id < p.length; id++) p[id] *= discount;
    p[successor] += 1 - discount;
  }
}
