/** Links that hold a start, a model, a seed, dials and rules, after the # of the address, which browsers send to no server. */

import { RULE_NAMES } from "./rules.js";
import { CONTROLS, LARGEST_SEED } from "./sampling_controls.js";

const BOUNDS = { ...CONTROLS, seed: { min: 0, max: LARGEST_SEED, step: 1 }, rule_begun: { min: 0, max: LARGEST_SEED, step: 1 } };
const WORDS = ["prompt", "model", "ignore_eos", ...RULE_NAMES];

/** The link to what a model writes with these fields of POST /v1/completions. */
export function linkTo(fields) {
  const known = Object.entries(fields).filter(([name]) => name in BOUNDS || WORDS.includes(name));
  return `${location.href.split("#")[0]}#write?${new URLSearchParams(known)}`;
}

/** Reads the part of an address after #: `{fields, refused}`, where `refused` are the parts that cannot be used; null if it is no link. */
export function readLink(hash) {
  if (!hash.startsWith("#write?")) return null;
  const [fields, refused] = [{ prompt: "", temperature: CONTROLS.temperature.value, max_tokens: CONTROLS.max_tokens.value }, []];
  for (const [name, words] of new URLSearchParams(hash.slice(7))) {
    const value = WORDS.includes(name) ? words : numberIn(words, BOUNDS[name]);
    if (value === null) refused.push(`${name}=${words}`);
    else fields[name] = name === "ignore_eos" ? value === "true" : value;
  }
  return { fields, refused };
}

function numberIn(words, bounds) {
  const value = words.trim() ? Number(words) : NaN;
  const fits = value >= bounds?.min && value <= bounds.max && (bounds.step < 1 || Number.isInteger(value));
  return fits ? value : null;
}
