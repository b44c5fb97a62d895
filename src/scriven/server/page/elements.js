/** Elements and texts that every view uses. */

export const byId = (id) => document.getElementById(id);

/** Calls `action` at each event of this kind at the element of this id. */
export const on = (id, kind, action) => byId(id).addEventListener(kind, action);

/** Hides the element of this id, or shows it. */
export const hide = (id, hidden) => (byId(id).hidden = Boolean(hidden));

/** Makes `words` the text of the element of this id. */
export const say = (id, words) => (byId(id).textContent = words);

/** A new element with these properties and children: elements, or strings, which are never read as HTML. */
export function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** A new span of this class. */
export const inline = (className, ...children) => make("span", { className }, ...children);

export const option = (name) => make("option", { value: name }, name);

/** A number with a fixed count of decimals. */
export const number = (value, decimals = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });

/** A number rounded to two digits; from a million on, with the word for it. */
export const approximate = (value) =>
  value < 10 ? number(value, 1) : value.toLocaleString("en", { maximumSignificantDigits: 2, ...(value < 1e6 ? {} : IN_WORDS) });

const IN_WORDS = { notation: "compact", compactDisplay: "long" };

const NAMES = { " ": "space", "\n": "new line", "\t": "tab", "\r": "return", "\u00a0": "no-break space" };

/** The name of a character that cannot be seen, such as a space; any other character itself. */
export const nameCharacter = (character) => NAMES[character] ?? (character === "" ? "nothing" : character);

/** Characters as a list for a sentence: in quotation marks, or by number if they cannot be seen. */
export const spellOut = (characters) =>
  characters.map((each) => (/[\p{L}\p{N}\p{P}\p{S}]/u.test(each) ? `“${each}”` : codeOf(each))).join(", ");

const codeOf = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

export const isBlank = (character) => character in NAMES;

/** A share as a percentage, never rounded to 0 %, nor up to 100 %. */
export function percent(share) {
  if (share < 0.001) return "< 0.1 %";
  const rounded = number(100 * share, share < 0.0995 ? 1 : 0);
  return `${rounded === "100" && share < 1 ? "> 99" : rounded} %`;
}

/** An error as a sentence; "" if the user stopped the work. */
export function errorText(error) {
  if (error.name === "AbortError") return "";
  const words = error instanceof TypeError ? "the server is not responding" : error.message;
  return words.charAt(0).toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");
}

/** Whether the user has asked the system for less animation. */
export const prefersReducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Resolves at the next animation frame, or after 50 ms while the page is hidden. */
export const nextFrame = () => new Promise((resolve) => (document.hidden ? setTimeout(resolve, 50) : requestAnimationFrame(resolve)));

/** A random seed, short enough to read aloud. */
export const randomSeed = () => Math.floor(Math.random() * 1_000_000);
