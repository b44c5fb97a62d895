/** Examples of texts to read, which the model itself writes, so that there are some for every model. */

import * as api from "./api.js";
import { inline, make, number } from "./elements.js";
import { levelOf, scoreText } from "./scored_text.js";

const FIELDS = { prompt: "", seed: 1, temperature: 0.7, max_tokens: 260, ignore_eos: true };

let model = ""; // whose examples are shown

/** Shows examples by the model of this name in `element`, or hides it if the name is empty. `read(text)` reads one. */
export async function showExamples(element, name, read) {
  element.hidden = !name;
  if (!name || name === model) return;
  model = name;
  element.replaceChildren();
  try {
    const found = await examples(name);
    if (model === name) element.replaceChildren(...found.map((each) => card(each, read)));
  } catch {
    if (model === name) model = ""; // to read another text, no example is needed
  }
}

async function examples(name) {
  let text = "";
  for await (const piece of api.generate({ ...FIELDS, model: name })) text += piece.text;
  const titled = { "What the model writes": text.trim(), "The same words, last one first": backwards(text.trim()) };
  const texts = Object.entries(titled).filter(([, each]) => each);
  return Promise.all(texts.map(async ([title, each]) => ({ title, scored: await scoreText(name, each) })));
}

const backwards = (text) => text.split(/(\s+)/).reverse().join("");

function card({ title, scored }, read) {
  const head = inline("name", title, " ", inline("share", `${number(scored.bitsPerCharacter, 1)} bits per ${scored.symbol}`));
  const made = make("button", { className: "example" }, head, make("span", { className: "prose", dir: "auto" }, ...coloured(scored)));
  made.addEventListener("click", () => read(scored.text));
  return made;
}

function* coloured(scored) {
  let unit = 0;
  for (const character of scored.text) {
    yield inline(`s${levelOf(scored.bitsAt(unit))}`, character);
    unit += character.length;
  }
}
