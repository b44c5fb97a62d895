/** A text and the surprisal of each of its characters, as far as they are scored. Uses no part of the page. */

import * as api from "./api.js";
import { GrowableArray } from "./growable_array.js";

const STEPS_PER_BIT = 8; // each surprisal is stored in eighths of a bit, up to 31.9 bits
const MOST_PLACES = 100; // in the list of the most surprising places
/** Bits at which the next darker colour begins: of a character, of a word, and per character of a line. */
const LEVELS = { characters: [2, 3.5, 5, 7, 10], words: [6, 10, 14, 19, 26], lines: [1.5, 2, 2.5, 3.5, 5] };

/** What a model's losses are counted by: a "token", or a "character", also where it reads bytes. */
export const symbolOf = (unit) => (unit === "token" ? "token" : "character");

export const levelOf = (bits, by = "characters") => LEVELS[by].filter((bound) => bits >= bound).length;
export const levelNames = (by) => [`< ${LEVELS[by][0]}`, ...LEVELS[by].map((bound) => `${bound} +`)]; // in bits

export const utf8Length = (code) => (code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4);

/** Where the match of a sticky pattern at a place of a text ends; the place itself if there is none. */
function matchEnd(pattern, text, place) {
  pattern.lastIndex = place;
  return pattern.test(text) ? pattern.lastIndex : place;
}

const isSpace = (code) => code === 32 || code === 9 || endsLine(code);
const endsLine = (code) => code === 10 || code === 13;

/** The most surprising places: `places` is a list of `{unit, bits}`, the most surprising first. */
export class MostSurprising {
  constructor() {
    this.places = [];
  }

  add(unit, bits) {
    if (this.places.length === MOST_PLACES && bits <= this.places.at(-1).bits) return;
    const rank = this.places.findIndex((place) => place.bits < bits);
    this.places.splice(rank < 0 ? this.places.length : rank, 0, { unit, bits });
    this.places.length = Math.min(this.places.length, MOST_PLACES);
  }
}

/** The sums of some characters' surprisals, their means by line, and the most surprising of them. */
class Tally {
  constructor() {
    this.characters = 0;
    this.bits = 0;
    this.most = new MostSurprising();
    this.lineBits = new GrowableArray(Float32Array); // bits per character of each line that is scored to its end
    this.line = { bits: 0, characters: 0 };
  }

  add(unit, bits) {
    this.characters += 1;
    this.bits += bits;
    this.line.bits += bits;
    this.line.characters += 1;
    this.most.add(unit, bits);
  }

  endLine() {
    this.lineBits.push(this.line.bits / this.line.characters); // NaN for a line without surprisals
    this.line = { bits: 0, characters: 0 };
  }
}

export class ScoredText {
  /**
   * `unit` is what the model reads at each step: "character", "byte", or "token", whose surprisal all of its characters
   * show. `separator` ends its documents and has no surprisal.
   */
  constructor(text, { unit, separator }) {
    this.text = text;
    this.byBytes = unit === "byte";
    this.byTokens = unit === "token";
    this.symbol = symbolOf(unit); // what is counted
    this.separator = separator;
    this.countsEnds = true; // whether the ends of lines count
    this.whole = new Tally();
    this.withoutEnds = new Tally();
    this.partial = { bytes: 0, bits: 0 }; // of a character whose bytes are not all scored
    this.done = 0; // UTF-16 code units scored
    this.lineStarts = new GrowableArray(Uint32Array); // in UTF-16 code units; a line begins after each line feed
    this.lineStarts.push(0);
    this.stored = new Uint8Array(text.length);
  }

  /** The tally of the characters that count. */
  get tally() {
    return this.countsEnds ? this.whole : this.withoutEnds;
  }

  get hasEnds() {
    return this.whole.characters > this.withoutEnds.characters;
  }

  get bitsPerCharacter() {
    return this.tally.bits / this.tally.characters;
  }

  /** The surprisal in bits of the character at `unit`. */
  bitsAt(unit) {
    return this.stored[unit] / STEPS_PER_BIT;
  }

  /** Where the character at `unit` begins and ends, or the token that it is in. */
  symbolAt(unit) {
    const code = this.text.codePointAt(unit);
    if (!this.byTokens || isSpace(code)) return [unit, unit + (code > 0xffff ? 2 : 1)];
    let start = unit;
    while (start > 0 && !isSpace(this.text.charCodeAt(start - 1))) start--;
    return [start, matchEnd(/[^ \t\r\n]+/y, this.text, start)];
  }

  /** The line that a unit is in, as `{start, end, bits}`, with its bits per character; undefined if it is not scored yet. */
  lineAt(unit) {
    return this.lineNumbered(this.lineStarts.lastUpTo(unit));
  }

  lineNumbered(number) {
    const { values, length } = this.tally.lineBits;
    if (number >= length || Number.isNaN(values[number])) return undefined;
    const end = number + 1 < this.lineStarts.length ? this.lineStarts.values[number + 1] : this.text.length;
    return { start: this.lineStarts.values[number], end, bits: values[number] };
  }

  /** The most surprising lines, as `places` of characters. */
  get lines() {
    const most = new MostSurprising();
    for (let number = 0; number < this.lineStarts.length; number++) {
      const line = this.lineNumbered(number);
      if (line) most.add(line.start, line.bits);
    }
    return most.places;
  }

  /** Whether the character at `unit` counts. */
  counts(unit) {
    return this.countsEnds || !endsLine(this.text.charCodeAt(unit));
  }

  /** Adds the surprisals in bits of the characters, or bytes, that come next. */
  add(surprisals) {
    for (const bits of surprisals) {
      this.#skipSeparators();
      if (this.done >= this.text.length) return;
      if (this.byTokens) {
        this.#storeToken(bits);
        continue;
      }
      const code = this.text.codePointAt(this.done);
      this.partial.bytes += 1;
      this.partial.bits += bits;
      if (this.byBytes && this.partial.bytes < utf8Length(code)) continue;
      this.#store(code, this.partial.bits);
      this.partial = { bytes: 0, bits: 0 };
    }
    this.#skipSeparators();
  }

  #skipSeparators() {
    this.#skipSpaces();
    while (this.separator && this.text.startsWith(this.separator, this.done)) {
      this.done += this.separator.length;
      if (this.separator.includes("\n")) this.#endLine();
      this.#skipSpaces();
    }
  }

  /** Skips what only stands between tokens, which has no surprisal: spaces, and a carriage return before a line feed. */
  #skipSpaces() {
    if (this.byTokens) this.done = matchEnd(/(?:[ \t]|\r(?=\n))*/y, this.text, this.done);
  }

  /** Stores the surprisal of the token that comes next: a line end, or all up to the next space or document's end. */
  #storeToken(bits) {
    const unit = this.done;
    const code = this.text.charCodeAt(unit);
    const end = endsLine(code) ? unit + 1 : matchEnd(/[^ \t\r\n]+/y, this.text, unit);
    const cut = this.separator ? this.text.indexOf(this.separator, unit) : -1;
    this.done = cut > unit && cut < end ? cut : end;
    this.stored.fill(Math.min(255, Math.round(bits * STEPS_PER_BIT)), unit, this.done);
    this.whole.add(unit, bits);
    if (!endsLine(code)) this.withoutEnds.add(unit, bits);
    if (endsLine(code) || this.done >= this.text.length) this.#endLine();
  }

  #store(code, bits) {
    const unit = this.done;
    const rounded = Math.min(255, Math.round(bits * STEPS_PER_BIT));
    this.stored[unit] = rounded;
    if (code > 0xffff) this.stored[unit + 1] = rounded;
    this.done += code > 0xffff ? 2 : 1;
    this.whole.add(unit, bits);
    if (!endsLine(code)) this.withoutEnds.add(unit, bits);
    if (code === 10 || this.done >= this.text.length) this.#endLine();
  }

  #endLine() {
    this.whole.endLine();
    this.withoutEnds.endLine();
    if (this.done < this.text.length) this.lineStarts.push(this.done);
  }
}

/** Resolves to a short text with its surprisals. */
export async function scoreText(model, text, signal) {
  const scored = new ScoredText(text, await api.tokenizerFacts(model));
  for await (const nats of api.score(model, text, scored.separator, signal)) scored.add(nats.map((each) => each / Math.LN2));
  return scored;
}
