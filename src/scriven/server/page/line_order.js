/** The lines of a scored text in another order. Uses no part of the page. */

import { GrowableArray } from "./growable_array.js";

/** Orders by name: 1 for the most surprising line first, -1 for the least surprising, 0 as written. */
export const ORDERS = { "as written": 0, "most surprising first": 1, "least surprising first": -1 };

/** Maps between a place in the text that is shown and a unit of the text as written, both in UTF-16 code units. */
export class LineOrder {
  constructor(scored, direction) {
    this.scored = scored;
    this.lines = direction ? sorted(scored, direction) : null;
    this.text = scored.text;
    if (this.lines) this.#arrange();
  }

  #arrange() {
    this.starts = new GrowableArray(Uint32Array); // of the lines that are shown
    this.ranks = new Uint32Array(this.lines.length); // of the lines as written
    const shown = [];
    let place = 0;
    this.lines.forEach((line, rank) => {
      const words = lineAt(this.scored, line);
      shown.push(words.endsWith("\n") ? words : `${words}\n`);
      this.starts.push(place);
      this.ranks[line] = rank;
      place += shown.at(-1).length;
    });
    this.text = shown.join("");
  }

  /** The unit as written of a place that is shown. */
  unitOf(place) {
    if (!this.lines) return place;
    const rank = this.starts.lastUpTo(place);
    return place - this.starts.values[rank] + this.scored.lineStarts.values[this.lines[rank]];
  }

  /** The place where a unit is shown. */
  placeOf(unit) {
    if (!this.lines) return unit;
    const line = this.scored.lineStarts.lastUpTo(unit);
    return unit - this.scored.lineStarts.values[line] + this.starts.values[this.ranks[line]];
  }
}

function lineAt({ text, lineStarts }, line) {
  return text.slice(lineStarts.values[line], line + 1 < lineStarts.length ? lineStarts.values[line + 1] : text.length);
}

/** The numbers of all lines. Lines without surprisals come last, and equal ones stay as written. */
function sorted(scored, direction) {
  const { values, length } = scored.tally.lineBits;
  const bits = (line) => (line < length && !Number.isNaN(values[line]) ? direction * values[line] : -Infinity);
  const numbers = Array.from({ length: scored.lineStarts.length }, (_, line) => line);
  return numbers.sort((a, b) => bits(b) - bits(a) || a - b);
}
