/** Compare: models continue the same beginning with the same seed, and each scores what the others wrote. */

import * as api from "./api.js";
import { byId, errorText, hide, inline, make, number, on, option, randomSeed, say } from "./elements.js";
import { CONTROLS, makeSlider } from "./sampling_controls.js";
import { ScoredText } from "./scored_text.js";
import { typeOut } from "./typewriter.js";

const SIDES = ["left", "right", "third", "fourth"]; // at most
const OTHER_TEMPERATURE = 1.1; // of the second side, when both use the same model
const PREVIEWED = 240; // characters that each side shows before anything is asked for

let app;
let sides = [];
let busy = null; // the controller of the texts that are being written

export function start(theApp) {
  app = theApp;
  on("compare", "input", () => !busy && note(hint()));
  on("compare-more", "click", add);
  on("compare-form", "submit", (event) => {
    event.preventDefault();
    if (busy) busy.abort();
    else writeAll();
  });
  on("compare", "keydown", (event) => {
    if (event.key === "Escape") busy?.abort();
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && !busy) byId("compare-form").requestSubmit();
  });
  add();
  add();
}

// --- sides

/** Adds a side, with the first model that no other side has. */
function add() {
  const used = sides.map((each) => each.model.value);
  const name = SIDES.find((each) => !sides.some((side) => side.name === each));
  const added = side(name, app.models.find((each) => !used.includes(each)) ?? app.models[0]);
  sides.push(added);
  show();
  preview(added);
}

function remove(side) {
  side.previewing?.abort();
  sides = sides.filter((each) => each !== side);
  show();
}

function show() {
  byId("compare-columns").replaceChildren(...sides.map((each) => each.element));
  for (const each of sides) each.remove.hidden = sides.length < 3 || Boolean(busy);
  hide("compare-more", sides.length === SIDES.length || Boolean(busy));
  say("compare-go", busy ? "Stop" : sides.length > 2 ? "Write all" : "Write both");
  if (!busy) note(hint());
}

function side(name, chosen) {
  const label = `Model ${SIDES.indexOf(name) + 1}`;
  const model = make("select", { id: `compare-${name}` }, ...app.models.map(option));
  model.value = chosen ?? "";
  const value = sides.length && hasOneModel() ? OTHER_TEMPERATURE : CONTROLS.temperature.value;
  const temperature = makeSlider(`compare-${name}-temperature`, { ...CONTROLS.temperature, value, hint: "" });
  const text = make("div", { className: "prose passages", tabIndex: 0, id: `compare-${name}-text`, dir: "auto", role: "region", ariaLabel: `Text by ${label}` });
  const verdict = make("div", { className: "verdict" });
  const picked = make("label", { className: "pick" }, make("span", {}, label), " ", model);
  const gone = make("button", { type: "button", className: "quiet", ariaLabel: `Remove ${label}` }, "×");
  const head = make("div", { className: "head" }, picked, temperature.element, gone);
  const made = { name, element: make("div", { className: "column" }, head, text, verdict), model, temperature: temperature.input, text, verdict, remove: gone, written: "" };
  gone.addEventListener("click", () => remove(made));
  for (const input of [model, made.temperature]) input.addEventListener("change", () => preview(made));
  return made;
}

const hasOneModel = () => app.models.length < 2;

/** A hint to show before they write. */
function hint() {
  const choices = sides.map((each) => `${each.temperature.value} ${each.model.value}`);
  if (new Set(choices).size < choices.length) return "Two of these would write the same text. Change a temperature or a model.";
  return hasOneModel() ? "There is only one model here. Compare two temperatures, or serve another." : "";
}

const note = (words) => say("compare-note", words);

// --- writing

/** Shows how a side's model writes, pale, until it is asked for a text. */
async function preview(side) {
  side.previewing?.abort();
  if (busy || side.written || !side.model.value) return;
  const { signal } = (side.previewing = new AbortController());
  const shown = inline("ahead");
  side.text.replaceChildren(shown);
  try {
    const fields = { prompt: "", seed: 1, max_tokens: PREVIEWED, ignore_eos: true, model: side.model.value, temperature: Number(side.temperature.value) };
    await typeOut(api.generate(fields, signal), (text) => shown.append(text), signal);
  } catch {
    // nothing was asked for, so nothing is missed
  }
}

async function writeAll() {
  const controller = (busy = new AbortController());
  for (const each of sides) each.previewing?.abort();
  const seed = byId("compare-seed");
  if (!byId("compare-locked").checked) seed.value = String(randomSeed());
  const prompt = byId("compare-prompt").value;
  const fields = { prompt, seed: Number(seed.value), max_tokens: Number(byId("compare-length").value) };
  show();
  note("");
  const results = await Promise.allSettled(sides.map((each) => writeSide(each, fields, controller.signal)));
  const failed = results.map((each) => each.reason && errorText(each.reason)).filter(Boolean);
  if (!controller.signal.aborted && !failed.length) await scoreAll(prompt, controller.signal).catch((error) => failed.push(errorText(error)));
  busy = null;
  show();
  if (failed[0]) note(failed[0]);
  app.announce(failed[0] ?? "All texts are finished.");
}

async function writeSide(each, fields, signal) {
  each.written = "";
  each.verdict.replaceChildren();
  const written = inline("model");
  each.text.replaceChildren(inline("you", fields.prompt), written);
  const put = (text) => {
    each.written += text;
    written.append(text);
  };
  const pieces = api.generate({ ...fields, model: each.model.value, temperature: Number(each.temperature.value) }, signal);
  await typeOut(pieces, put, signal);
}

// --- the result

/** Shows how well each model predicts all texts: usually a model predicts its own text best. */
async function scoreAll(prompt, signal) {
  const models = [...new Set(sides.map((each) => each.model.value))];
  for (const each of sides) {
    if (!each.written) continue;
    const scores = await Promise.all(models.map((model) => scoreText(model, prompt, each.written, signal)));
    each.verdict.replaceChildren(...result(each, models, scores));
  }
}

/** The bits per character of a text, large for its writer, and as bars for all models; per token, if all count tokens. */
function result({ model: writer, written }, models, scores) {
  const unit = scores.every(({ symbol }) => symbol === "token") ? "token" : "character";
  const bits = scores.map(({ bits, symbols, symbol }) => bits / (symbol === unit ? symbols : [...written].length));
  const own = number(bits[models.indexOf(writer.value)], 2);
  const figure = make("div", { className: "figure" }, make("output", {}, own), make("span", {}, `bits per ${unit}`));
  const most = Math.max(...bits);
  const bars = models.map((model, place) => {
    const bar = inline("bar-of");
    bar.style.width = `${(100 * bits[place]) / most}%`;
    return make("li", {}, inline("name", model), make("span", { className: "track", ariaHidden: "true" }, bar), inline("share", number(bits[place], 2)));
  });
  return [figure, ...(models.length > 1 ? [make("ul", { className: "bars", ariaLabel: `Bits per ${unit} by each model` }, ...bars)] : [])];
}

/** What a text that follows `prompt` costs a model: `{bits, symbols, symbol}`, in characters or tokens. */
async function scoreText(model, prompt, text, signal) {
  const scored = new ScoredText(prompt + text, await api.tokenizerFacts(model));
  let before = prompt ? null : { bits: 0, characters: 0 };
  for await (const surprisal of api.score(model, scored.text, scored.separator, signal)) {
    for (const nats of surprisal) {
      scored.add([nats / Math.LN2]);
      if (!before && scored.done >= prompt.length) before = { bits: scored.whole.bits, characters: scored.whole.characters };
    }
  }
  return { bits: scored.whole.bits - before.bits, symbols: scored.whole.characters - before.characters, symbol: scored.symbol };
}
