/** The list of everything that was written, as a tree of branches that can be gone back to. */

import { byId, inline, make, number } from "./elements.js";
import { textOf } from "./passages.js";

const SHOWN = 60; // UTF-16 code units of what is new in a version

/** Fills the list. `open(id)` is called with the version that is chosen. */
export function fillHistory(versions, current, models, open) {
  const rows = [...versions.rows()].map((row) => item(versions, row, current, models, open));
  byId("history-list").replaceChildren(...rows);
}

function item(versions, { version, depth, from }, current, models, open) {
  const text = textOf(versions.passagesOf(version.id));
  const word = from - /\S{0,20}$/.exec(text.slice(0, from))[0].length; // where the word begins that a branch changed
  const words = `${word ? "… " : ""}${text.slice(word, word + SHOWN).trim().replaceAll(/\s+/g, " ")}`;
  const snippet = make("span", { className: "snippet", dir: "auto" }, words);
  const button = make("button", {}, snippet, inline("hint", facts(version, text.slice(from), models)));
  if (version.id === current) button.ariaCurrent = "true";
  button.addEventListener("click", () => open(version.id));
  const made = make("li", {}, button);
  made.style.setProperty("--depth", Math.min(depth, 8));
  return made;
}

function facts({ fields }, text, models) {
  const parts = [`${number([...text].length)} characters`];
  if (!fields) parts.push("edited by you");
  else parts.push(`temperature ${fields.temperature}`, `seed ${fields.seed}`);
  if (fields && models.length > 1) parts.unshift(fields.model);
  return parts.join(" · ");
}
