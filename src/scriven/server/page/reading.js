/** A text and how surprising each of its characters was, as far as it is read. No screen is needed for this. */

import { Growing } from "./growing.js";

const FINE = 8; // a character's surprisal is kept in eighths of a bit, up to 31.9 bits
const KEPT = 40; // most surprising places
const APART = 16; // units between two of them
const LEVELS = [2, 3.5, 5, 7, 10]; // bits at which the next stronger colour begins

export const levelOf = (bits) => LEVELS.filter((bound) => bits >= bound).length;
export const levelNames = [`< ${LEVELS[0]}`, ...LEVELS.map((bound) => `${bound} +`)]; // in bits

const utf8Length = (code) => (code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4);

export class Reading {
  /** `unit` is what the model counts, "character" or "byte"; `edge` is what ends its documents, which costs no characters. */
  constructor(text, { unit, edge }) {
    this.text = text;
    this.bytewise = unit === "byte";
    this.edge = edge;
    this.half = { bytes: 0, bits: 0 }; // of a character whose bytes are not all read
    this.done = 0; // units that are read
    this.characters = 0;
    this.bits = 0; // of all that is read
    this.places = []; // [{unit, bits}], most surprising first
    this.lineStarts = new Growing(Uint32Array); // units; a line begins after each "\n"
    this.lineStarts.push(0);
    this.lineBits = new Growing(Float32Array); // bits per character of each line that is read to its end
    this.fine = new Uint8Array(text.length);
    this.line = { bits: 0, characters: 0 };
  }

  get bitsPerCharacter() {
    return this.bits / this.characters;
  }

  /** The surprisal of the character at a unit, in bits. */
  bitsAt(unit) {
    return this.fine[unit] / FINE;
  }

  /** Takes the bits of the characters, or bytes, that follow, in order. */
  take(costs) {
    for (const bits of costs) {
      this.#skipEdges();
      if (this.done >= this.text.length) return;
      const code = this.text.codePointAt(this.done);
      this.half.bytes += 1;
      this.half.bits += bits;
      if (this.bytewise && this.half.bytes < utf8Length(code)) continue;
      this.#note(code, this.half.bits);
      this.half = { bytes: 0, bits: 0 };
    }
    this.#skipEdges();
  }

  #skipEdges() {
    while (this.edge && this.text.startsWith(this.edge, this.done)) {
      this.done += this.edge.length;
      if (this.edge.includes("\n")) this.#endLine();
    }
  }

  #note(code, bits) {
    const unit = this.done;
    const kept = Math.min(255, Math.round(bits * FINE));
    this.fine[unit] = kept;
    if (code > 0xffff) this.fine[unit + 1] = kept;
    this.done += code > 0xffff ? 2 : 1;
    this.characters += 1;
    this.bits += bits;
    this.line.bits += bits;
    this.line.characters += 1;
    this.#rank(unit, bits);
    if (code === 10 || this.done >= this.text.length) this.#endLine();
  }

  #endLine() {
    this.lineBits.push(this.line.bits / this.line.characters); // nan where a line costs nothing
    this.line = { bits: 0, characters: 0 };
    if (this.done < this.text.length) this.lineStarts.push(this.done);
  }

  #rank(unit, bits) {
    const last = this.places.at(-1);
    if (this.places.length === KEPT && bits <= last.bits) return;
    const near = this.places.findIndex((place) => unit - place.unit < APART);
    if (near >= 0) {
      if (this.places[near].bits >= bits) return;
      this.places.splice(near, 1);
    }
    const rank = this.places.findIndex((place) => place.bits < bits);
    this.places.splice(rank < 0 ? this.places.length : rank, 0, { unit, bits });
    this.places.length = Math.min(this.places.length, KEPT);
  }
}
