/** What the page asks a server for, answered by the model in this file: the same functions as in server/page/api.js. */

import { Model, makePacer, probabilities } from "./model.js";

const { header, arrays } = globalThis.scriven;
const model = new Model(header, arrays);
const SEEDS = 2 ** 31;

/** Rules, words and the training text are a server's. */
export const HAS_SERVER = false;

/** The name of the only model. */
export const modelNames = async () => [header.name];

/** What is known of its training: nothing. No text and no name of one is in the file. */
export const introduction = async () => ({ texts: [], beginnings: [] });

/** Reading files of word processors is the server's. */
export const extract = async ({ name }) => {
  throw new Error(`This page opens plain text alone. Save ${name} as plain text (UTF-8), or copy its text and paste it here.`);
};

/** Facts about the model's tokens; see server/page/api.js. */
export const tokenizerFacts = async () => ({ unit: "character", separator: model.separator, knowsReturn: model.ids.has("\r") });

/** Yields pieces of text `{text, ended, unknown}`; `fields` are those of POST /v1/completions. */
export async function* generate({ prompt, seed = Math.floor(Math.random() * SEEDS), max_tokens: length, ignore_eos: goesOn, ...fields }, signal) {
  const settings = { temperature: 1, top_k: 0, min_p: 0, ...fields, top_p: fields.top_p || 1 };
  const unknown = model.unknownIn(prompt);
  yield { text: "", ended: false, unknown };
  for await (const id of model.write(prompt, settings, seed, length, makePacer(signal))) {
    const ended = id === model.boundary && !goesOn;
    yield { text: ended ? "" : model.decode(id), ended, unknown };
    if (ended) return;
  }
}

/** The `count` most likely characters after a text, in order: `[{text, probability}]`. */
export async function likeliestCharacters(_, prompt, count, signal) {
  const context = await model.after(prompt, makePacer(signal));
  const found = probabilities(model.logitsOf(context, "writing")).map((probability, id) => ({ id, text: model.decode(id), probability }));
  found.sort((a, b) => b.probability - a.probability);
  return found.slice(0, count).filter(({ id, text }) => id !== model.unknown && text);
}

/** Yields the surprisals in nats of all characters of a text, in lists; ends of documents have none. */
export async function* score(_, text, separator, signal) {
  for await (const { id, nats } of model.score(text, makePacer(signal))) if (id !== model.boundary) yield [nats];
}
