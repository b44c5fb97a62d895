/** The texts that the browser keeps: `{current, draft, versions}`, the id of the one shown, what is typed, and a list of versions. */

import { load, store } from "./storage.js";

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

/** Keeps these, and what another tab has kept in the meantime. Returns whether the browser does. */
export function storeTexts({ versions, ...rest }) {
  const known = new Set(versions.map(({ id }) => id));
  const others = loadTexts()?.versions.filter(({ id }) => !known.has(id)) ?? [];
  return store(KEY, { ...rest, versions: [...others, ...versions] });
}

export const forgetTexts = () => store(KEY, null);
