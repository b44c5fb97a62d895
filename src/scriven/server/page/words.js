/** The words of a scored text, as the server divides it. Uses no part of the page. */

import { GrowableArray } from "./growable_array.js";
import { MostSurprising, utf8Length } from "./scored_text.js";

/** Where each word begins, its surprisal in bits, and the most surprising ones. */
export class Words {
  /** The words of a `ScoredText`. */
  constructor({ text, byBytes, separator }) {
    Object.assign(this, { text, byBytes, separator });
    this.done = 0; // UTF-16 code units whose words are known
    this.starts = new GrowableArray(Uint32Array);
    this.bits = new GrowableArray(Float32Array);
    this.most = new MostSurprising();
  }

  /** Adds the words that come next: columns of POST /score. A row without characters is the end of a document. */
  add({ characters, bits }) {
    characters.forEach((count, row) => {
      this.#skipSeparators();
      if (!count || this.done >= this.text.length) return;
      this.starts.push(this.done);
      this.bits.push(bits[row]);
      this.most.add(this.done, bits[row]);
      this.#pass(count);
    });
    this.#skipSeparators();
  }

  /** The word that a unit is in, as `{start, end, bits}`; undefined if it is in none, or not known yet. */
  at(unit) {
    if (unit >= this.done) return undefined;
    const number = this.starts.lastUpTo(unit);
    const end = number + 1 < this.starts.length ? this.starts.values[number + 1] : this.done;
    return number < 0 ? undefined : { start: this.starts.values[number], end, bits: this.bits.values[number] };
  }

  #pass(count) {
    while (count > 0 && this.done < this.text.length) {
      const code = this.text.codePointAt(this.done);
      count -= this.byBytes ? utf8Length(code) : 1;
      this.done += code > 0xffff ? 2 : 1;
    }
  }

  #skipSeparators() {
    while (this.separator && this.text.startsWith(this.separator, this.done)) this.done += this.separator.length;
  }
}
