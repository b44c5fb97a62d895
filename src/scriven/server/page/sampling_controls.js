/** The sliders that control how a model writes. The browser remembers their values. */

import { make, number } from "./elements.js";

const KEY = "scriven-sampling";
const off = (value, words) => (value ? words : "off");

/** By the names of the API. A value of 0 switches top_k, top_p and min_p off. */
export const CONTROLS = {
  temperature: {
    name: "Temperature", min: 0, max: 2, step: 0.05, value: 0.8, format: (value) => number(value, 2),
    hint: "Low plays it safe, high takes more risks.",
  },
  top_k: {
    name: "Top-k", min: 0, max: 50, step: 1, value: 0, format: (value) => off(value, `${value}`),
    hint: "Pick only from the k most likely characters.",
  },
  top_p: {
    name: "Top-p", min: 0, max: 0.99, step: 0.01, value: 0, format: (value) => off(value, number(value, 2)),
    hint: "Pick only from the most likely characters whose probabilities add up to p.",
  },
  min_p: {
    name: "Min-p", min: 0, max: 0.5, step: 0.01, value: 0, format: (value) => off(value, number(value, 2)),
    hint: "Skip characters much less likely than the top one.",
  },
  max_tokens: {
    name: "Characters", min: 50, max: 4000, step: 50, value: 500, format: (value) => number(value),
    hint: "How many characters to write each time.",
  },
};

function savedValues() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function saveValue(name, value) {
  localStorage.setItem(KEY, JSON.stringify({ ...savedValues(), [name]: value }));
}

/** A slider with its name, value and hint: `{input, element}`, the slider itself and the label around it. */
export function makeSlider(id, { name, min, max, step, value, format, hint }, onChange = () => {}) {
  const output = make("span", { className: "value" }, format(value));
  const input = make("input", { type: "range", id, min, max, step, value });
  const show = () => {
    output.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
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
  input.setAttribute("aria-label", name);
  return { input, element: make("label", { className: "control" }, ...parts) };
}

/** Fills a form with all sliders and the seed. Returns a function that gives the chosen values by their API names. */
export function makeControls(form) {
  const inputs = {};
  for (const [name, settings] of Object.entries(CONTROLS)) {
    const value = savedValues()[name] ?? settings.value;
    const made = makeSlider(`sampling-${name}`, { ...settings, value }, (now) => saveValue(name, now));
    inputs[name] = made.input;
    form.append(made.element);
  }
  const seed = make("input", { type: "number", id: "sampling-seed", min: 0, max: 2147483647, step: 1, placeholder: "random" });
  const hint = make("small", { className: "hint" }, "The same number gives the same text again.");
  form.append(make("label", { className: "control seed" }, make("span", { className: "name" }, "Seed"), seed, hint));
  form.addEventListener("submit", (event) => event.preventDefault());
  return () => ({ ...valuesOf(inputs), ...(seed.value === "" ? {} : { seed: Number(seed.value) }) });
}

function valuesOf(inputs) {
  const values = Object.entries(inputs).map(([name, input]) => [name, Number(input.value)]);
  return Object.fromEntries(values.filter(([name, value]) => value || name === "temperature"));
}
