/** The sliders that say how a model writes. Their values are kept in the browser. */

import { make, number } from "./parts.js";

const KEY = "scriven-dials";
const off = (value, words) => (value ? words : "off");

/** In the API's names; a value of 0 leaves the last three off. */
export const DIALS = {
  temperature: {
    name: "Temperature", min: 0, max: 2, step: 0.05, value: 0.8, shown: (value) => number(value, 2),
    hint: "Low takes what is likely, high dares more.",
  },
  top_k: {
    name: "Top-k", min: 0, max: 50, step: 1, value: 0, shown: (value) => off(value, `${value}`),
    hint: "Only the so many likeliest characters.",
  },
  top_p: {
    name: "Top-p", min: 0, max: 0.99, step: 0.01, value: 0, shown: (value) => off(value, number(value, 2)),
    hint: "Only the likeliest that together make up this share.",
  },
  min_p: {
    name: "Min-p", min: 0, max: 0.5, step: 0.01, value: 0, shown: (value) => off(value, number(value, 2)),
    hint: "None rarer than this share of the likeliest.",
  },
  max_tokens: {
    name: "Characters", min: 50, max: 4000, step: 50, value: 500, shown: (value) => number(value),
    hint: "How much it writes at a time.",
  },
};

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function keep(name, value) {
  localStorage.setItem(KEY, JSON.stringify({ ...kept(), [name]: value }));
}

/** A slider with its name, its value in words and what it does; `input` is the slider itself. */
export function dial(id, { name, min, max, step, value, shown, hint }, changed = () => {}) {
  const output = make("span", { className: "value" }, shown(value));
  const input = make("input", { type: "range", id, min, max, step, value });
  const show = () => {
    output.textContent = shown(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    show();
    changed(Number(input.value));
  });
  show();
  const parts = [make("span", { className: "name" }, name, " ", output), input];
  if (hint) {
    parts.push(make("small", { className: "hint", id: `${id}-hint` }, hint));
    input.setAttribute("aria-describedby", `${id}-hint`);
  }
  input.setAttribute("aria-label", name);
  return { input, element: make("label", { className: "dial" }, ...parts) };
}

/** Puts all sliders and the seed into a form; returns the function that tells what was chosen. */
export function dials(form) {
  const inputs = {};
  for (const [name, settings] of Object.entries(DIALS)) {
    const value = kept()[name] ?? settings.value;
    const made = dial(`dial-${name}`, { ...settings, value }, (now) => keep(name, now));
    inputs[name] = made.input;
    form.append(made.element);
  }
  const seed = make("input", { type: "number", id: "dial-seed", min: 0, max: 2147483647, step: 1, placeholder: "any" });
  const hint = make("small", { className: "hint" }, "The same number writes the same text.");
  form.append(make("label", { className: "dial seed" }, make("span", { className: "name" }, "Seed"), seed, hint));
  form.addEventListener("submit", (event) => event.preventDefault());
  return () => ({ ...chosen(inputs), ...(seed.value === "" ? {} : { seed: Number(seed.value) }) });
}

function chosen(inputs) {
  const values = Object.entries(inputs).map(([name, input]) => [name, Number(input.value)]);
  return Object.fromEntries(values.filter(([name, value]) => value || name === "temperature"));
}
