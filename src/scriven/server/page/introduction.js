/** The page before anything is written: what the model is, beginnings to click, and an example that writes itself. */

import * as api from "./api.js";
import { approximate, byId, inline, make, number, on, randomSeed } from "./elements.js";
import { unitAt } from "./hit_test.js";
import { appendText } from "./passages.js";
import { typeOut } from "./typewriter.js";

const EXAMPLE = { max_tokens: 280, temperature: 0.8, ignore_eos: true };
const CALM = { slowest: 90, behind: Infinity }; // characters per second, however many have arrived

const UNKNOWN = { texts: [], beginnings: [] };

const part = (name) => byId(`write-${name}`);

let app, keep;
let facts = null; // about the model, once they are known
let example = []; // its passages
let fields; // those of the request that wrote it
let writing = new AbortController(); // of the example

/**
 * Prepares the start of the view. `begin(text)` is called with a beginning to write from,
 * `keep(passages, fields, place)` with an example to go on with, the fields that it was written with, and the place in
 * it that was clicked, or null.
 */
export function prepareStart(theApp, begin, keepExample) {
  [app, keep] = [theApp, keepExample];
  on("write-beginnings", "click", ({ target }) => target.closest("button") && begin(target.closest("button").value));
  on("write-keep", "click", () => adopt(null));
  on("write-example", "click", ({ clientX, clientY }) => adopt(unitAt(part("example"), clientX, clientY)));
  app.onModel(introduceModel);
  introduceModel();
}

/** Shows the start, or hides it and stops the example. */
export function showStart(shown) {
  part("start").hidden = !shown;
  if (!shown) writing.abort();
  else if (facts && !example.length) writeExample();
}

function adopt(place) {
  writing.abort();
  const kept = example;
  example = [];
  if (kept.length) keep(kept, fields, place);
}

async function introduceModel() {
  const model = app.model;
  writing.abort();
  [facts, example] = [null, []];
  const found = await api.introduction(model).catch(() => UNKNOWN); // without it, the page works as well
  if (app.model !== model) return;
  facts = found;
  part("about").replaceChildren(...describe(facts));
  part("beginnings").replaceChildren(...facts.beginnings.map(beginningButton));
  part("or").hidden = !facts.beginnings.length;
  if (!part("start").hidden) writeExample();
}

function* describe({ texts, training_characters: characters, seconds, bits_per_char: bits, network_alone: alone, unit }) {
  if (!texts.length || !characters) return;
  const named = texts.slice(0, 3).map((text) => (text === "-" ? "a text" : text.replace(/(.)\.\w{1,5}$/, "$1")));
  const more = texts.length > 3 ? ` and ${number(texts.length - 3)} more` : "";
  yield "Learned from ";
  yield make("em", {}, named.join(", ") + more);
  yield `: ${approximate(characters)} ${unit}s${seconds ? ` in ${spellDuration(seconds)}` : ""}.`;
  const letter = unit === "character" ? "letter" : unit;
  if (bits) yield ` ${alone ? "Its network alone" : "It"} finds the next ${letter} as if it guessed among ${approximate(2 ** bits)} ${letter}s.`;
}

function spellDuration(seconds) {
  const [unit, value] = seconds < 90 ? ["second", seconds] : seconds < 5400 ? ["minute", seconds / 60] : ["hour", seconds / 3600];
  return Math.max(1, Math.round(value)).toLocaleString("en", { style: "unit", unit, unitDisplay: "long" });
}

function beginningButton(text) {
  return make("button", { value: text }, `${text.replaceAll(/\s*\n\s*/g, " / ")} …`);
}

async function writeExample() {
  const { signal } = (writing = new AbortController());
  const beginning = facts.beginnings[0] ?? "";
  const words = part("example");
  const put = (text) => {
    example = appendText(example, text, "model");
    words.lastElementChild.append(text);
  };
  example = appendText([], beginning, "you");
  words.replaceChildren(inline("you", beginning), inline("model"));
  words.classList.add("busy");
  part("keep").hidden = true;
  try {
    fields = { ...EXAMPLE, model: app.model, seed: randomSeed() };
    await typeOut(api.generate({ ...fields, prompt: beginning }, signal), put, signal, CALM);
  } catch {
    return; // an example that cannot be written is none
  } finally {
    if (writing.signal === signal) words.classList.remove("busy");
  }
  part("keep").hidden = signal.aborted;
}
