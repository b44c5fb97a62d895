/** A text of any size cut into rows as wide as the screen, of which only those in sight are in the document. */

import { Growing } from "./growing.js";
import { frame, make } from "./parts.js";

const TALLEST = 12_000_000; // pixels; browsers draw nothing far beyond. A text of more rows scrolls in larger steps.
const AT_ONCE = 400_000; // characters that are cut before the screen is drawn again

/** Starts of the rows of a text: `widthOf(code)` is a character's width, a row is `width` wide at most. */
export class Wrapping {
  constructor(text, width, widthOf) {
    this.text = text;
    this.width = width;
    this.widthOf = widthOf;
    this.starts = new Growing(Uint32Array);
    this.starts.push(0);
    this.place = 0;
    this.used = 0; // of the width, by the last row
    this.space = 0; // after the last space of the row, where it may break; 0 where it has none
  }

  get done() {
    return this.place >= this.text.length;
  }

  /** Cuts some more of the text. */
  advance(units) {
    const end = Math.min(this.text.length, this.place + units);
    while (this.place < end) this.#character();
  }

  #character() {
    const code = this.text.codePointAt(this.place);
    const after = this.place + (code > 0xffff ? 2 : 1);
    if (code === 10) return this.#begin((this.place = after));
    this.used += this.widthOf(code);
    if (this.used > this.width && code !== 32 && this.place > this.starts.values[this.starts.length - 1]) {
      return this.#begin((this.place = this.space || this.place));
    }
    this.place = after;
    if (code === 32 || code === 9 || code === 45) this.space = after;
  }

  #begin(unit) {
    if (unit < this.text.length) this.starts.push(unit);
    this.used = this.space = 0;
  }
}

/** Shows rows in an element that scrolls; `draw(start, end)` gives the element of the row with these units. */
export class Rows {
  constructor(scroller, draw) {
    this.scroller = scroller;
    this.draw = draw;
    this.space = make("div", { className: "rows" });
    this.window = make("div", { className: "window" });
    this.space.append(this.window);
    scroller.replaceChildren(this.space);
    this.widths = new Map();
    scroller.addEventListener("scroll", () => this.show());
    new ResizeObserver(() => this.#resized()).observe(scroller);
  }

  /** Takes another text; resolves when all of it is cut into rows. */
  async set(text) {
    this.text = text;
    this.scroller.scrollTop = 0;
    await this.#cut();
  }

  async #cut() {
    const style = getComputedStyle(this.window);
    this.height = parseFloat(style.lineHeight);
    this.columns = this.window.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const brush = document.createElement("canvas").getContext("2d");
    brush.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    brush.fontKerning = "none";
    const wrapping = (this.wrapping = new Wrapping(this.text, this.columns, (code) => this.#width(brush, code)));
    while (!wrapping.done && wrapping === this.wrapping) {
      wrapping.advance(AT_ONCE);
      this.show();
      await frame();
    }
    this.show();
  }

  #width(brush, code) {
    const known = this.widths.get(code);
    if (known !== undefined) return known;
    const width = brush.measureText(code === 9 ? "    " : String.fromCodePoint(code)).width;
    this.widths.set(code, width);
    return width;
  }

  #resized() {
    if (!this.text || !this.scroller.clientWidth) return;
    const style = getComputedStyle(this.window);
    const columns = this.window.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (columns === this.columns) return this.show();
    const top = this.top;
    this.widths.clear();
    this.#cut().then(() => this.reveal(top));
  }

  get #count() {
    return this.wrapping.starts.length;
  }

  get #seen() {
    return Math.ceil(this.scroller.clientHeight / this.height);
  }

  /** The unit with which the first row in sight begins. */
  get top() {
    return this.wrapping.starts.values[this.#first];
  }

  get #first() {
    const room = this.space.clientHeight - this.scroller.clientHeight;
    const scale = room > 0 ? (this.#count - this.#seen + 1) / room : 0;
    const row = this.#tall ? this.scroller.scrollTop * scale : this.scroller.scrollTop / this.height;
    return Math.max(0, Math.min(this.#count - 1, Math.floor(row)));
  }

  get #tall() {
    return this.#count * this.height > TALLEST;
  }

  /** Draws the rows in sight anew. */
  show() {
    if (!this.wrapping || !this.scroller.clientHeight) return;
    this.space.style.height = `${Math.min(TALLEST, this.#count * this.height)}px`;
    const first = this.#first;
    const { values } = this.wrapping.starts;
    const last = Math.min(this.#count, first + this.#seen + 2);
    const drawn = [];
    for (let row = first; row < last; row++) drawn.push(this.draw(values[row], row + 1 < this.#count ? values[row + 1] : this.text.length));
    this.window.style.top = `${this.#tall ? this.scroller.scrollTop : first * this.height}px`;
    this.window.replaceChildren(...drawn);
  }

  /** Scrolls so that the row with this unit is in sight, a third below the top. */
  reveal(unit) {
    const row = Math.max(0, this.wrapping.starts.lastUpTo(unit) - Math.floor(this.#seen / 3));
    const room = this.space.clientHeight - this.scroller.clientHeight;
    this.scroller.scrollTop = this.#tall ? (row / (this.#count - this.#seen + 1)) * room : row * this.height;
    this.show();
  }
}
