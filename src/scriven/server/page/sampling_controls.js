/** The dials that control how a model writes. The browser remembers their values. */

import { make, number } from "./elements.js";
import { load, store } from "./storage.js";

const KEY = "scriven-sampling";
const share = (value) => (value ? number(value, 2) : "off");

/** By the names of the API. A value of 0 switches top_k, top_p and min_p off. */
export const CONTROLS = {
  temperature: {
    name: "Temperature", min: 0, max: 2, step: 0.05, value: 0.8, format: (value) => number(value, 2),
    hint: "Low: safe, and soon the same again. High: daring, and soon nonsense.",
  },
  max_tokens: {
    name: "Length", min: 50, max: 4000, step: 50, value: 500, format: (value) => `${number(value)} characters`,
    hint: "How much it writes each time.",
  },
  top_k: {
    name: "Top-k", min: 0, max: 50, step: 1, value: 0, format: (value) => value || "off",
    hint: "Only the k likeliest characters may come next.",
  },
  top_p: {
    name: "Top-p", min: 0, max: 0.99, step: 0.01, value: 0, format: share,
    hint: "Only the likeliest characters may come next: as many as together have this chance.",
  },
  min_p: {
    name: "Min-p", min: 0, max: 0.5, step: 0.01, value: 0, format: share,
    hint: "Characters whose chance is below this share of the likeliest one's may not come next.",
  },
};
const MORE = ["top_k", "top_p", "min_p"]; // those that few people need
export const LARGEST_SEED = 2 ** 31 - 1;

/** A slider with its name, value and hint: `{input, element}`, the slider itself and the label around it. */
export function makeSlider(id, { name, min, max, step, value, format, hint }, onChange = () => {}) {
  const output = make("span", { className: "value" }, format(value));
  const input = make("input", { type: "range", id, min, max, step, value });
  const show = () => {
    output.textContent = format(Number(input.value));
    input.ariaValueText = output.textContent;
  };
  input.addEventListener("input", () => {
    show();
    onChange(Number(input.value));
  });
  show();
  const parts = [make("span", { className: "name" }, name, " ", output), input];
  if (hint) {
    parts.push(make("small", { className: "hint", id: `${id}-hint` }, hint));
    input.setAttribute("aria-describedby", `${id}-hint`);
  }
  input.ariaLabel = name;
  return { input, element: make("label", { className: "control" }, ...parts) };
}

/**
 * Fills a form with the sliders and the seed: `{values, set}`. `values()` gives the chosen values by their API names,
 * `set(values)` chooses these, and switches off what they lack.
 */
export function makeControls(form) {
  const saved = load(KEY) ?? {};
  const save = (name, value) => store(KEY, Object.assign(saved, { [name]: value }));
  const inputs = { seed: makeSeed(saved.seed ?? "") };
  const elements = { seed: around(inputs.seed) };
  for (const [name, settings] of Object.entries(CONTROLS)) {
    const { input, element } = makeSlider(`sampling-${name}`, { ...settings, value: saved[name] ?? settings.value });
    [inputs[name], elements[name]] = [input, element];
  }
  for (const [name, input] of Object.entries(inputs)) input.addEventListener("input", () => save(name, input.value));
  const more = make("details", { open: MORE.some((name) => Number(inputs[name].value)) }, make("summary", {}, "More"));
  more.append(...MORE.map((name) => elements[name]));
  form.append(elements.temperature, elements.max_tokens, elements.seed, more);
  form.addEventListener("submit", (event) => event.preventDefault());
  const set = (values) => {
    for (const [name, input] of Object.entries(inputs)) {
      input.value = values[name] ?? (name === "seed" ? "" : 0);
      input.dispatchEvent(new Event("input"));
    }
  };
  return { values: () => valuesOf(inputs), set };
}

function makeSeed(value) {
  return make("input", { type: "number", id: "sampling-seed", min: 0, max: LARGEST_SEED, step: 1, placeholder: "random", value });
}

function around(seed) {
  const hint = make("small", { className: "hint" }, "With the same number it writes the same text again.");
  return make("label", { className: "control seed" }, make("span", { className: "name" }, "Seed"), seed, hint);
}

function valuesOf(inputs) {
  const given = Object.entries(inputs).filter(([, input]) => input.value !== "");
  const values = given.map(([name, input]) => [name, Number(input.value)]);
  return Object.fromEntries(values.filter(([name, value]) => value || name === "temperature" || name === "seed"));
}
