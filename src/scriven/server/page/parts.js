/** Small parts that every view uses. */

export const byId = (id) => document.getElementById(id);

/** A new element with these properties and children (elements or strings, which stay text). */
export function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export const option = (name) => make("option", { value: name }, name);

/** A number in the reader's digits, with so many decimals. */
export const number = (value, decimals = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });

/** A large number to two digits, in words from a million on. */
export const about = (value) =>
  value < 10 ? number(value, 1) : value.toLocaleString("en", { maximumSignificantDigits: 2, ...(value < 1e6 ? {} : IN_WORDS) });

const IN_WORDS = { notation: "compact", compactDisplay: "long" };

const NAMES = { " ": "space", "\n": "new line", "\t": "tab", "\r": "return", "\u00a0": "hard space" };

/** A character as a word, where it leaves no mark of its own; else as it is. */
export const named = (character) => NAMES[character] ?? (character === "" ? "nothing" : character);

/** Characters in a sentence: as they are where they leave a mark, else by their numbers. */
export const spelled = (characters) =>
  characters.map((each) => (/[\p{L}\p{N}\p{P}\p{S}]/u.test(each) ? `“${each}”` : codeOf(each))).join(", ");

const codeOf = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

export const isBlank = (character) => character in NAMES;

/** A share as a percentage that is never rounded to none or all. */
export function percent(share) {
  if (share < 0.001) return "< 0.1 %";
  const rounded = number(100 * share, share < 0.0995 ? 1 : 0);
  return `${rounded === "100" && share < 1 ? "> 99" : rounded} %`;
}

/** What went wrong as a sentence; nothing where the user stopped it. */
export function told(error) {
  if (error.name === "AbortError") return "";
  const words = error instanceof TypeError ? "the server does not answer" : error.message;
  return words.charAt(0).toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** The next picture of the screen; also where the page is out of sight and draws none. */
export const frame = () => new Promise((resolve) => (document.hidden ? setTimeout(resolve, 50) : requestAnimationFrame(resolve)));

/** Any seed, small enough to be read aloud. */
export const anySeed = () => Math.floor(Math.random() * 1_000_000);
