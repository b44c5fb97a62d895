/** Every text that was written, as a tree: a version keeps the start of its parent and goes on differently. Uses no part of the page. */

import { appendText, firstUnits, textOf, unitsFrom } from "./passages.js";

const MOST_UNITS = 400_000; // of all texts; beyond it, the oldest versions that nothing came from are forgotten

export class Versions {
  /** `saved` is a `list` of before. */
  constructor(saved = []) {
    this.all = new Map(saved.map((each) => [each.id, each]));
  }

  /** All versions as plain objects, the oldest first. */
  get list() {
    return [...this.all.values()];
  }

  /** Whether there is this version; null is the empty one. */
  has(id) {
    return id === null || this.all.has(id);
  }

  passagesOf(id) {
    const version = this.all.get(id);
    if (!version) return [];
    return version.added.reduce((made, { text, by }) => appendText(made, text, by), firstUnits(this.passagesOf(version.parent), version.kept));
  }

  /** Adds a version that came from `parent`, an id or null. `fields` are those that the model wrote it with. Returns its id. */
  add(passages, parent, fields) {
    const id = `${Date.now()}-${Math.random()}`;
    this.all.set(id, { id, parent, fields, from: textOf(passages).length });
    this.set(id, passages);
    this.forgetOldest(id);
    return id;
  }

  set(id, passages) {
    const version = this.all.get(id);
    version.kept = commonUnits(this.passagesOf(version.parent), passages);
    version.added = unitsFrom(passages, version.kept);
  }

  /**
   * Yields `{version, depth, from}`, the newest text first, each version before those that came from it. A branch is
   * deeper than its parent. What follows `from` is new. A start that only you typed is part of what came from it.
   */
  *rows(parent = null, depth = 0, length = 0, start = Infinity) {
    const children = this.#children(parent);
    for (const version of parent ? children : children.reverse()) {
      const from = Math.min(start, version.kept);
      const inner = depth + (version.kept < length);
      const hidden = !version.fields && this.#children(version.id).length;
      if (!hidden) yield { version, depth: inner, from };
      yield* this.rows(version.id, inner, version.kept + textOf(version.added).length, hidden ? from : Infinity);
    }
  }

  #children(parent) {
    return this.list.filter((each) => each.parent === parent);
  }

  /** Keeps the bound on all texts. It forgets neither `current` nor what it came from. */
  forgetOldest(current) {
    let units = this.list.reduce((sum, { added }) => sum + textOf(added).length, 0);
    const parents = new Set(this.list.map(({ parent }) => parent));
    for (const { id, added } of this.list) {
      if (units <= MOST_UNITS) return;
      if (id === current || parents.has(id)) continue;
      this.all.delete(id);
      units -= textOf(added).length;
    }
  }
}

/** How many units two lists of passages have in common, in text and author. */
function commonUnits(one, other) {
  let units = 0;
  for (let place = 0; place < Math.min(one.length, other.length); place++) {
    const [a, b] = [one[place], other[place]];
    let same = 0;
    while (a.by === b.by && same < a.text.length && a.text[same] === b.text[same]) same++;
    units += same;
    if (same < Math.max(a.text.length, b.text.length)) break;
  }
  return units;
}
