/** The rules that what is written next obeys, and what the server says about one that it refuses. */

import { make } from "./elements.js";

/** By the names of the API: the label, an example, and a hint. */
const FIELDS = {
  acrostic: ["Lines begin with", "ROSE", "One line for each of these letters, in order."],
  rhyme: ["Lines end with", "ing", "Every line ends with these letters, the last one too."],
  contains: ["Has in it", "the sea", "These characters come somewhere in the text."],
  allow: ["Only these characters", "abcdefghij", "With space, if there are to be several words."],
  forbid: ["None of these characters", "eE", "Such as a text without the letter e."],
  guided_regex: ["Pattern", "[A-Z][a-z]{2,9}", "The whole text matches this regular expression."],
  guided_json: ["JSON Schema", '{"type": "integer"}', "The text is JSON that satisfies it."],
};
const EXAMPLES = {
  "A poem on ROSE": { acrostic: "ROSE" },
  "Lines that rhyme on -ing": { rhyme: "ing" },
  "A text without the letter e": { forbid: "eE" },
  "Four lines of 20 to 30 characters": { guided_regex: "(.{20,30}\\n){3}.{20,30}" },
  "A name": { guided_regex: "[A-Z][a-z]{2,9} [A-Z][a-z]{2,9}" },
  "A list in JSON": { guided_json: '{"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 2, "maxItems": 4}' },
};
export const RULE_NAMES = Object.keys(FIELDS);

/**
 * Adds the fields to a form: `{values, set, show}`. `values()` gives the rules by their API names, `set(values)` puts in
 * these alone. `show(error)` shows the sentence of an error next to the rule that it is about, and returns it; "" for an
 * error about something else, or none.
 */
export function makeRules(form) {
  const fields = Object.fromEntries(RULE_NAMES.map((name) => [name, makeField(name, ...FIELDS[name])]));
  const choice = make("select", { id: "rule-example", ariaLabel: "Examples of rules" }, new Option("Examples …", ""), ...Object.keys(EXAMPLES).map((name) => new Option(name)));
  const hint = make("small", { className: "hint" }, "The model writes only what obeys, from where it first goes on; what it wrote by the same rules counts. Several rules hold together.");
  const box = make("details", { id: "write-rules" }, make("summary", {}, "Rules"), hint, choice, ...RULE_NAMES.map((name) => fields[name].element));
  form.append(box);
  const set = (values) => {
    for (const name of RULE_NAMES) fields[name].input.value = values[name] ?? "";
    box.open ||= RULE_NAMES.some((name) => values[name]);
    show(null);
  };
  choice.addEventListener("change", () => set(EXAMPLES[choice.value] ?? {}));
  box.addEventListener("input", ({ target }) => target !== choice && (choice.value = ""));
  const show = (error) => {
    let said = "";
    for (const name of RULE_NAMES) {
      const own = error?.param === name;
      if (own) said = error.message.replace(`${name}: `, "");
      fields[name].input.ariaInvalid = own;
      fields[name].refusal.textContent = own ? said : "";
    }
    box.open ||= Boolean(said);
    return said && `${FIELDS[error.param][0]}: ${said}`;
  };
  const values = () => Object.fromEntries(RULE_NAMES.map((name) => [name, fields[name].input.value]).filter(([, value]) => value));
  return { values, set, show };
}

function makeField(name, label, example, words) {
  const id = `rule-${name}`;
  const input = make(name === "guided_json" ? "textarea" : "input", { id, placeholder: example, autocomplete: "off", spellcheck: false, rows: 3 });
  input.setAttribute("autocapitalize", "off");
  input.setAttribute("aria-describedby", `${id}-hint ${id}-refusal`);
  const refusal = make("small", { className: "hint refusal", id: `${id}-refusal` });
  const hint = make("small", { className: "hint", id: `${id}-hint` }, words);
  const title = make("label", { className: "name", htmlFor: id }, label);
  return { input, refusal, element: make("div", { className: "control field" }, title, input, refusal, hint) };
}
