/** Compare: two models continue the same text with the same seed, and each scores what the other wrote. */

import * as api from "./api.js";
import { byId, errorText, make, number, option } from "./elements.js";
import { CONTROLS, makeSlider } from "./sampling_controls.js";
import { ScoredText } from "./scored_text.js";
import { typeOut } from "./typewriter.js";

let app;
let sides = [];
let busy = null;

const OTHER_TEMPERATURE = 1.1; // on the right, when both sides use the same model

export function start(theApp) {
  app = theApp;
  sides = ["left", "right"].map(side);
  byId("compare-columns").replaceChildren(...sides.map((each) => each.element));
  byId("compare").addEventListener("input", () => !busy && note(hint()));
  note(hint());
  byId("compare-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (busy) busy.abort();
    else writeBoth();
  });
  byId("compare").addEventListener("keydown", (event) => {
    if (event.key === "Escape") busy?.abort();
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && !busy) byId("compare-form").requestSubmit();
  });
}

function side(name) {
  const model = make("select", { id: `compare-${name}` }, ...app.models.map(option));
  const other = name === "right";
  if (other && !hasOneModel()) model.selectedIndex = 1;
  const value = other && hasOneModel() ? OTHER_TEMPERATURE : CONTROLS.temperature.value;
  const temperature = makeSlider(`compare-${name}-temperature`, { ...CONTROLS.temperature, value, hint: "" });
  const text = make("div", { className: "prose passages", tabIndex: 0, id: `compare-${name}-text` });
  text.setAttribute("role", "region");
  text.setAttribute("aria-label", `Text by the model on the ${name}`);
  const verdict = make("p", { className: "note" });
  const picked = make("label", { className: "pick" }, make("span", {}, `Model on the ${name}`), " ", model);
  const element = make("div", { className: "column" }, make("div", { className: "head" }, picked, temperature.element), text, verdict);
  return { element, model, temperature: temperature.input, text, verdict, written: "" };
}

const hasOneModel = () => app.models.length < 2;

/** A hint to show before both write. */
function hint() {
  const [left, right] = sides.map((each) => `${each.temperature.value} ${each.model.value}`);
  const several = "start scriven serve with several runs";
  if (left === right) return `Both sides would write the same text. Change a temperature, or ${hasOneModel() ? several : "choose another model"}.`;
  return hasOneModel() ? `There is only one model here. Compare two temperatures, or ${several}.` : "";
}

function note(words) {
  byId("compare-note").textContent = words;
}

async function writeBoth() {
  const controller = (busy = new AbortController());
  const prompt = byId("compare-prompt").value;
  const fields = { prompt, seed: Number(byId("compare-seed").value), max_tokens: Number(byId("compare-length").value) };
  byId("compare-go").textContent = "Stop";
  note("");
  const results = await Promise.allSettled(sides.map((each) => writeSide(each, fields, controller.signal)));
  const failed = results.map((each) => each.reason && errorText(each.reason)).filter(Boolean);
  if (!controller.signal.aborted && !failed.length) await scoreBoth(prompt, controller.signal).catch((error) => failed.push(errorText(error)));
  byId("compare-go").textContent = "Write both";
  busy = null;
  note(failed[0] ?? hint());
  app.announce(failed[0] ?? "Both texts are finished.");
}

async function writeSide(each, fields, signal) {
  each.written = "";
  each.verdict.textContent = "";
  const written = make("span", { className: "model" });
  each.text.replaceChildren(make("span", { className: "you" }, fields.prompt), written);
  const put = (text) => {
    each.written += text;
    written.append(text);
  };
  const pieces = api.generate({ ...fields, model: each.model.value, temperature: Number(each.temperature.value) }, signal);
  await typeOut(pieces, put, signal);
}

/** Shows how well each model predicts both texts: usually a model predicts its own text better. */
async function scoreBoth(prompt, signal) {
  const models = [...new Set(sides.map((each) => each.model.value))];
  for (const each of sides) {
    if (!each.written) continue;
    const bits = await Promise.all(models.map((model) => bitsPerCharacter(model, prompt, each.written, signal)));
    const parts = models.map((model, place) => `${number(bits[place], 2)} for ${model}`);
    each.verdict.textContent = `Bits per character: ${parts.join(", ")}.`;
  }
}

async function bitsPerCharacter(model, prompt, text, signal) {
  const scored = new ScoredText(prompt + text, await api.tokenizerFacts(model));
  let before = prompt ? null : { bits: 0, characters: 0 };
  for await (const surprisal of api.score(model, scored.text, scored.separator, signal)) {
    for (const nats of surprisal) {
      scored.add([nats / Math.LN2]);
      if (!before && scored.done >= prompt.length) before = { bits: scored.whole.bits, characters: scored.whole.characters };
    }
  }
  return (scored.whole.bits - before.bits) / (scored.whole.characters - before.characters);
}
