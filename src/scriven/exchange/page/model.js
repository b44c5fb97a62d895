/** A model in this page: text to symbols and back, contexts, draws and surprisals. It needs no server. */

import { Counts } from "./counts.js";
import { draw } from "./draw.js";
import { exponentials, PLAIN } from "./functions.js";
import { Network } from "./network.js";
import { Random } from "./pcg64.js";

const PARTS = 16; // partial sums of a surprisal
const SLICE = 25; // ms of work, after which the page may draw itself
const APART = 256; // symbols between two contexts that are kept
const REMEMBERED = 16; // symbols that counts look back at, at most

/** Lets the page do other things once a slice of time is used up. Throws if the signal says stop. */
export function makePacer(signal) {
  let begun = performance.now();
  return async () => {
    signal?.throwIfAborted();
    if (performance.now() - begun < SLICE) return;
    await new Promise((resolve) => setTimeout(resolve));
    signal?.throwIfAborted();
    begun = performance.now();
  };
}

/** What was read: the network's state and its logits (V,) of what comes next, and the last symbols. */
class Context {
  constructor(state, logits, recent = []) {
    Object.assign(this, { state, logits, recent });
  }

  copy() {
    return new Context(this.state.map((part) => part.slice()), this.logits.slice(), this.recent.slice());
  }
}

export class Model {
  /** `header` and `arrays` are what the file holds; see exchange/html_page.py. */
  constructor(header, arrays, compiler) {
    Object.assign(this, header.text); // symbols, separator, boundary, unknown, opening, documents, and how it is prepared
    this.size = header.network.symbols;
    const own = (prefix) => Object.fromEntries(Object.entries(arrays).flatMap(([name, each]) => (name.startsWith(prefix) ? [[name.slice(prefix.length), each]] : [])));
    this.network = new Network(header.network, own("network."), compiler);
    this.counts = header.counts && new Counts(header.counts, own("counts."), this.size, this.boundary);
    this.ids = new Map(this.symbols.map((symbol, id) => [symbol, id]));
    this.mixed = new Float32Array(this.size);
    this.kept = []; // contexts of the text that was read last: {ids, context}
  }

  // --- text

  /** A text in the form that the model was trained on. */
  prepare(text) {
    const lowered = this.lowercase ? text.toLowerCase() : text;
    const plain = Object.keys(this.replaced).length ? [...lowered].map((each) => this.replaced[each] ?? each).join("") : lowered;
    return this.normalize === "nfc" ? plain.normalize("NFC") : plain;
  }

  /** The documents of a text; the text itself if the model knows none. */
  split(text) {
    const prepared = this.prepare(text.replace(/^\ufeff/, ""));
    if (this.documents === "lines") return prepared.split(/\r\n|\n|\r/);
    return this.documents === "separator" ? prepared.split(this.prepare(this.separator)) : [prepared];
  }

  /** The ids of a text, with the boundary between two documents. A symbol that the model does not know is `-1`. */
  encode(text) {
    return this.split(text).flatMap((document, number) => [...(number ? [this.boundary] : []), ...Array.from(document, (symbol) => this.ids.get(symbol) ?? -1)]);
  }

  unknownIn(text) {
    return [...new Set(this.split(text).join(""))].filter((symbol) => !this.ids.has(symbol));
  }

  decode(id) {
    return id === this.boundary ? this.separator : (this.symbols[id] ?? "\ufffd");
  }

  // --- reading

  /** The context after symbols: of the network, `-1` is read as `<unk>`. */
  #read(context, id) {
    const known = id < 0 ? this.unknown : id;
    this.network.read(known, context.state, context.logits);
    if (this.counts) {
      context.recent.push(known);
      if (context.recent.length > REMEMBERED) context.recent.shift();
    }
    return context;
  }

  #start() {
    const start = new Context(this.network.zeroState(), new Float32Array(this.size));
    return this.opening.reduce((context, id) => this.#read(context, id), start);
  }

  /** Resolves to the context after a text, which the caller may change. */
  async after(text, breathe) {
    const ids = this.encode(text);
    const isBegun = ({ ids: before }) => before.length <= ids.length && before.every((id, place) => id === ids[place]);
    this.kept = this.kept.filter(isBegun);
    const known = this.kept.at(-1);
    const context = known?.context.copy() ?? this.#start();
    for (let place = known?.ids.length ?? 0; place < ids.length; place++) {
      this.#read(context, ids[place]);
      if ((place + 1) % APART === 0) this.kept.push({ ids: ids.slice(0, place + 1), context: context.copy() });
      if (place % 16 === 0) await breathe();
    }
    checkFinite(context.logits);
    return context;
  }

  /** The logits (V,) that decide what comes next, valid until the next call. */
  logitsOf(context, way) {
    if (!this.counts || !context.recent.length) return context.logits;
    this.counts.mix(context.recent, context.logits, way, this.mixed);
    return this.mixed;
  }

  /** Yields the ids that a seed draws after a prompt. */
  async *write(prompt, settings, seed, length, breathe) {
    const random = new Random(seed);
    const context = await this.after(prompt, breathe);
    for (let place = 0; place < length; place++) {
      const id = draw(this.logitsOf(context, "writing"), this.size - 1, settings, random.next());
      this.#read(context, id);
      checkFinite(context.logits);
      yield id;
      await breathe();
    }
  }

  /** Yields `{id, nats}` for each symbol of a text, the ends of documents among them, `id` -1 for an unknown one. */
  async *score(text, breathe) {
    const context = this.#start();
    for (const id of this.#scoredIds(text)) {
      const known = id < 0 ? this.unknown : id;
      const nats = costOf(this.logitsOf(context, "reading"), known) + (id < 0 ? this.unknownNats : 0);
      if (!Number.isFinite(nats)) throw overflow();
      yield { id, nats };
      this.#read(context, id);
      await breathe();
    }
  }

  /** The ids of a text that is read as a file is: a boundary ends each document that is not empty. */
  *#scoredIds(text) {
    if (this.boundary === null) return yield* this.encode(text);
    for (const document of this.split(text)) {
      for (const symbol of document) yield this.ids.get(symbol) ?? -1;
      if (document) yield this.boundary;
    }
  }
}

const overflow = () => new Error("the model overflows: its weights are finite, but its results are not");

function checkFinite(logits) {
  if (!logits.every(Number.isFinite)) throw overflow();
}

/** -ln of the softmax of logits at `id`, in nats: see kernels/native/forward_chunk.h. */
function costOf(logits, id) {
  let largest = logits[0];
  for (const each of logits) if (each > largest) largest = each;
  const parts = new Float32Array(PARTS);
  const weights = logits.map((each) => each - largest);
  exponentials(weights, 0, weights.length, PLAIN);
  for (let place = 0; place < weights.length; place++) parts[place % PARTS] += weights[place];
  return Math.log(parts.reduce((sum, part) => sum + part, 0)) + largest - logits[id];
}

/** The probabilities (V,) of logits. */
export function probabilities(logits) {
  const largest = Math.max(...logits);
  const weights = Array.from(logits, (each) => Math.exp(each - largest));
  const sum = weights.reduce((total, each) => total + each, 0);
  return weights.map((each) => each / sum);
}
