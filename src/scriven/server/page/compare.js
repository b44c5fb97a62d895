/** Compare: two models write after the same beginning with the same seed, and read each other. */

import * as api from "./api.js";
import { DIALS, dial } from "./dials.js";
import { byId, make, number, option, told } from "./parts.js";
import { trickle } from "./pen.js";
import { Reading } from "./reading.js";

let app;
let sides = [];
let busy = null;

const DARING = 1.1; // temperature on the right, where both sides have the same model

export function start(theApp) {
  app = theApp;
  sides = ["left", "right"].map(side);
  byId("compare-columns").replaceChildren(...sides.map((each) => each.element));
  byId("compare").addEventListener("input", () => !busy && note(hint()));
  note(hint());
  byId("compare-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (busy) busy.abort();
    else both();
  });
  byId("compare").addEventListener("keydown", (event) => {
    if (event.key === "Escape") busy?.abort();
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && !busy) byId("compare-form").requestSubmit();
  });
}

function side(name) {
  const model = make("select", { id: `compare-${name}` }, ...app.models.map(option));
  const other = name === "right";
  if (other && !alone()) model.selectedIndex = 1;
  const value = other && alone() ? DARING : DIALS.temperature.value;
  const heat = dial(`compare-${name}-temperature`, { ...DIALS.temperature, value, hint: "" });
  const text = make("div", { className: "prose story", tabIndex: 0, id: `compare-${name}-text` });
  text.setAttribute("role", "region");
  text.setAttribute("aria-label", `What the ${name} model writes`);
  const verdict = make("p", { className: "note" });
  const picked = make("label", { className: "pick" }, make("span", {}, `Model on the ${name}`), " ", model);
  const element = make("div", { className: "column" }, make("div", { className: "head" }, picked, heat.element), text, verdict);
  return { element, model, heat: heat.input, text, verdict, written: "" };
}

const alone = () => app.models.length < 2;

/** What there is to know before both write. */
function hint() {
  const [left, right] = sides.map((each) => `${each.heat.value} ${each.model.value}`);
  const several = "start scriven serve with several runs";
  if (left === right) return `Both sides would write the same: turn a temperature, or ${alone() ? several : "choose another model"}.`;
  return alone() ? `One model is served: compare two temperatures, or ${several}.` : "";
}

function note(words) {
  byId("compare-note").textContent = words;
}

async function both() {
  const controller = (busy = new AbortController());
  const prompt = byId("compare-prompt").value;
  const asked = { prompt, seed: Number(byId("compare-seed").value), max_tokens: Number(byId("compare-length").value) };
  byId("compare-go").textContent = "Stop";
  note("");
  const results = await Promise.allSettled(sides.map((each) => one(each, asked, controller.signal)));
  const failed = results.map((each) => each.reason && told(each.reason)).filter(Boolean);
  if (!controller.signal.aborted && !failed.length) await judge(prompt, controller.signal).catch((error) => failed.push(told(error)));
  byId("compare-go").textContent = "Write both";
  busy = null;
  note(failed[0] ?? hint());
  app.say(failed[0] ?? "Both texts are written.");
}

async function one(each, asked, signal) {
  each.written = "";
  each.verdict.textContent = "";
  const written = make("span", { className: "model" });
  each.text.replaceChildren(make("span", { className: "you" }, asked.prompt), written);
  const put = (text) => {
    each.written += text;
    written.append(text);
  };
  const pieces = api.write({ ...asked, model: each.model.value, temperature: Number(each.heat.value) }, signal);
  await trickle(pieces, put, signal);
}

/** How surprising each text is to both models: a model finds its own text likelier than another's. */
async function judge(prompt, signal) {
  const models = [...new Set(sides.map((each) => each.model.value))];
  for (const each of sides) {
    if (!each.written) continue;
    const costs = await Promise.all(models.map((model) => surprise(model, prompt, each.written, signal)));
    const parts = models.map((model, place) => `${number(costs[place], 2)} to ${model}`);
    each.verdict.textContent = `Bits per character: ${parts.join(", ")}.`;
  }
}

async function surprise(model, prompt, text, signal) {
  const reading = new Reading(prompt + text, await api.counting(model));
  let before = prompt ? null : { bits: 0, characters: 0 };
  for await (const surprisal of api.score(model, reading.text, reading.edge, signal)) {
    for (const nats of surprisal) {
      reading.take([nats / Math.LN2]);
      if (!before && reading.done >= prompt.length) before = { bits: reading.bits, characters: reading.characters };
    }
  }
  return (reading.bits - before.bits) / (reading.characters - before.characters);
}
