/** Shows a text of any size in rows as wide as the screen. Only the visible rows are elements of the page. */

import { make, nextFrame } from "./elements.js";
import { GrowableArray } from "./growable_array.js";
import { isMark } from "./passages.js";

const TALLEST = 12_000_000; // pixels; browsers draw nothing far beyond. A longer text scrolls by more than one row per pixel row.
const WRAPPED_PER_FRAME = 400_000; // UTF-16 code units

/** Finds where the rows of a text start. A row is at most `width` wide; `widthOf(code)` is a character's width. */
export class LineWrapper {
  constructor(text, width, widthOf) {
    this.text = text;
    this.width = width;
    this.widthOf = widthOf;
    this.starts = new GrowableArray(Uint32Array);
    this.starts.push(0);
    this.place = 0;
    this.used = 0; // width of the last row so far
    this.lastBreak = 0; // after the last space of the row, where it may break; 0 if it has no space
  }

  get done() {
    return this.place >= this.text.length;
  }

  /** Wraps up to `units` more code units of the text. */
  advance(units) {
    const end = Math.min(this.text.length, this.place + units);
    while (this.place < end) this.#wrapCharacter();
  }

  #wrapCharacter() {
    const code = this.text.codePointAt(this.place);
    const after = this.place + (code > 0xffff ? 2 : 1);
    if (code === 10) return this.#startRow((this.place = after));
    if (isMark(this.text, this.place)) return void (this.place = after); // on the character before, and in its row
    this.used += this.widthOf(code);
    if (this.used > this.width && code !== 32 && this.place > this.starts.values[this.starts.length - 1]) {
      return this.#startRow((this.place = this.lastBreak || this.place));
    }
    this.place = after;
    if (code === 32 || code === 9 || code === 45) this.lastBreak = after;
  }

  #startRow(unit) {
    if (unit < this.text.length) this.starts.push(unit);
    this.used = this.lastBreak = 0;
  }
}

/** The rows of a text in an element that scrolls; `draw(start, end)` makes the element of one row. */
export class VirtualRows {
  constructor(scroller, draw) {
    this.scroller = scroller;
    this.draw = draw;
    this.space = make("div", { className: "rows" });
    this.window = make("div", { className: "window" });
    this.space.append(this.window);
    scroller.replaceChildren(this.space);
    this.widths = new Map();
    scroller.addEventListener("scroll", () => this.show());
    new ResizeObserver(() => this.#onResize()).observe(scroller);
  }

  /** Shows another text; resolves when all of it is wrapped. */
  async set(text) {
    this.text = text;
    this.scroller.scrollTop = 0;
    await this.#wrap();
  }

  async #wrap() {
    const style = getComputedStyle(this.window);
    this.height = parseFloat(style.lineHeight);
    this.columns = this.#columnsNow(style);
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    canvas.fontKerning = "none";
    const wrapper = (this.wrapper = new LineWrapper(this.text, this.columns, (code) => this.#width(canvas, code)));
    while (!wrapper.done && wrapper === this.wrapper) {
      wrapper.advance(WRAPPED_PER_FRAME);
      this.show();
      await nextFrame();
    }
    this.show();
  }

  #width(canvas, code) {
    const known = this.widths.get(code);
    if (known !== undefined) return known;
    const width = canvas.measureText(code === 9 ? "    " : String.fromCodePoint(code)).width;
    this.widths.set(code, width);
    return width;
  }

  #columnsNow({ paddingLeft, paddingRight }) {
    return this.window.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight);
  }

  #onResize() {
    if (!this.text || !this.scroller.clientWidth) return;
    const style = getComputedStyle(this.window);
    if (this.#columnsNow(style) === this.columns) return this.show();
    const top = this.top;
    this.widths.clear();
    this.#wrap().then(() => this.reveal(top));
  }

  get #count() {
    return this.wrapper.starts.length;
  }

  get #visibleCount() {
    return Math.ceil(this.scroller.clientHeight / this.height);
  }

  /** The start of the first visible row. */
  get top() {
    return this.wrapper.starts.values[this.#firstRow];
  }

  get #firstRow() {
    const range = this.space.clientHeight - this.scroller.clientHeight;
    const scale = range > 0 ? (this.#count - this.#visibleCount + 1) / range : 0;
    const row = this.#isCompressed ? this.scroller.scrollTop * scale : this.scroller.scrollTop / this.height;
    return Math.max(0, Math.min(this.#count - 1, Math.floor(row)));
  }

  get #isCompressed() {
    return this.#count * this.height > TALLEST;
  }

  /** Draws the visible rows again. */
  show() {
    if (!this.wrapper || !this.scroller.clientHeight) return;
    this.space.style.height = `${Math.min(TALLEST, this.#count * this.height)}px`;
    const first = this.#firstRow;
    const { values } = this.wrapper.starts;
    const last = Math.min(this.#count, first + this.#visibleCount + 2);
    const drawn = [];
    for (let row = first; row < last; row++) drawn.push(this.draw(values[row], row + 1 < this.#count ? values[row + 1] : this.text.length));
    this.window.style.top = `${this.#isCompressed ? this.scroller.scrollTop : first * this.height}px`;
    this.window.replaceChildren(...drawn);
  }

  /** Scrolls until the row with this code unit is a third of the way down. */
  reveal(unit) {
    const row = Math.max(0, this.wrapper.starts.lastUpTo(unit) - Math.floor(this.#visibleCount / 3));
    const range = this.space.clientHeight - this.scroller.clientHeight;
    this.scroller.scrollTop = this.#isCompressed ? (row / (this.#count - this.#visibleCount + 1)) * range : row * this.height;
    this.show();
  }
}
