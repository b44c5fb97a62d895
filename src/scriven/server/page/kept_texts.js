/** The texts that the browser keeps: `{current, draft, versions}`, the id of the one shown, what is typed, and a list of versions. */

import { load, store } from "./storage.js";
import { Versions } from "./versions.js";

const KEY = "scriven-texts";

/** What is kept; null if nothing is, or something else. */
export function loadTexts() {
  const saved = load(KEY);
  try {
    return saved.versions.every(isVersion) ? saved : null;
  } catch {
    return null;
  }
}

const isVersion = ({ id, kept, added }) => typeof id === "string" && Number.isInteger(kept) && added.every(({ text }) => typeof text === "string");

/** Keeps these, and what another tab has kept in the meantime, the newest that there is room for. Returns whether the browser does. */
export function storeTexts({ current, draft, versions }) {
  const known = new Set(versions.map(({ id }) => id));
  const others = loadTexts()?.versions.filter(({ id }) => !known.has(id)) ?? [];
  const all = new Versions([...others, ...versions]);
  all.forgetOldest(current);
  return store(KEY, { current, draft, versions: all.list });
}

export const forgetTexts = () => store(KEY, null);
