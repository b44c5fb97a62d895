/** Calls the server's HTTP API. No other module does. */

import { load, store } from "./storage.js";

const KEY = "scriven-token";
const PIECE = 20_000; // characters scored by one request
const encode = encodeURIComponent;
let askForToken = async () => null;
let token = load(KEY, "session");

/** Whether a server answers, which knows rules, words and the training text. */
export const HAS_SERVER = true;

/** An error answer of the server, with the server's own message, and the field that it is about. */
export class ApiError extends Error {
  constructor(status, { message, param }) {
    super(message);
    Object.assign(this, { status, param });
  }
}

/** Sets `ask()`, which is called when the server requires a token. It resolves to the token, or to null. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

/** Stores the token after # in the address, as `scriven serve` prints it, and removes it from the address bar. */
export function storeTokenFromAddress() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (!found) return;
  keepToken(decodeURIComponent(found[1]));
  history.replaceState(null, "", location.pathname + location.search);
}

function keepToken(given) {
  token = given;
  store(KEY, token, "session");
}

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    const given = await askForToken();
    if (given) {
      keepToken(given);
      return call(path, options);
    }
  }
  if (!response.ok) throw new ApiError(response.status, await reason(response));
  return response;
}

async function reason(response) {
  const words = await response.text();
  try {
    return JSON.parse(words).error;
  } catch {
    return { message: `the server answered with status ${response.status}` };
  }
}

function post(path, value, options = {}) {
  const headers = { "Content-Type": "application/json", ...options.headers };
  return call(path, { ...options, method: "POST", headers, body: JSON.stringify(value) });
}

/** Yields the lines of a response as they arrive. */
export async function* readLines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
  if (rest) yield rest;
}

/** Yields the values of a stream of server-sent events whose data is JSON on one line. */
export async function* readEvents(response) {
  for await (const line of readLines(response)) {
    if (!line.startsWith("data:")) continue;
    const words = line.slice(5).trim();
    if (words === "[DONE]") return;
    const value = JSON.parse(words);
    if (value.error) throw new ApiError(response.status, value.error);
    yield value;
  }
}

/** What of a text is copied from the training text: see POST /novelty of the API. */
export const novelty = (model, text, signal) => postJson("novelty", { model, text }, { signal });

/** The names of the models that the server offers. */
export async function modelNames() {
  return (await getJson("v1/models")).data.map((each) => each.id);
}

/** What a model learned from and how well, and beginnings of texts: see GET /runs/{name} of the API. */
export const introduction = (model) => getJson(`runs/${encode(model)}`);

/** The text of a .docx or .epub file. */
export const extract = async (file, signal) => (await call(`extract?name=${encode(file.name)}`, { method: "POST", body: file, signal })).text();

/**
 * Yields pieces of text as the model generates them: `{text, ended, unknown}`, where `unknown` are characters of the
 * prompt that the model does not know. `fields` are those of POST /v1/completions.
 */
export async function* generate(fields, signal) {
  const response = await post("v1/completions", { ...fields, stream: true }, { signal });
  for await (const event of readEvents(response)) {
    const choice = event.choices[0];
    const unknown = event.unknown_characters ?? [];
    if (choice) yield { text: choice.text, ended: choice.finish_reason === "stop", unknown };
  }
}

const NO_TEXT = /^(<unk>|bytes:.*)$/; // names of tokens that are not a character by themselves

/** The `count` most likely characters after a text, in order: `[{text, probability}]`. */
export async function likeliestCharacters(model, prompt, count, signal) {
  const fields = { model, prompt, max_tokens: 1, temperature: 1, logprobs: count };
  const answer = await postJson("v1/completions", fields, { signal });
  const top = Object.entries(answer.choices[0].logprobs.top_logprobs[0] ?? {});
  const characters = top.filter(([text]) => !NO_TEXT.test(text));
  return characters.map(([text, log]) => ({ text, probability: Math.exp(log) })).sort((a, b) => b.probability - a.probability);
}

/**
 * Facts about a model's tokens: `unit` ("character", "byte" or "token"), `separator` (the text between two of its documents, or
 * ""), and `knowsReturn` (whether it knows the character "\r").
 */
export async function tokenizerFacts(model, signal) {
  const [path, text] = [`tokenizer_info?model=${encode(model)}`, { model, prompt: "\r" }];
  const requests = [getJson(path, { signal }), postJson("tokenize", text, { signal })];
  const [info, tokenized] = await Promise.all(requests);
  return { unit: info.unit, separator: info.separator ?? "", knowsReturn: tokenized.tokens[0] < info.vocab_size };
}

/** Yields everything that happened in a run so far, then each change as it happens; see `scriven.server.run_monitor`. */
export async function* followRun(run, signal) {
  yield* readEvents(await call(`runs/${encode(run)}/events`, { signal }));
}

const getJson = async (...request) => (await call(...request)).json();

const postJson = async (...request) => (await post(...request)).json();

/** All runs: `[{name, training, steps}]`. */
export const runs = () => getJson("runs");

/** The losses of a run: `{steps, evaluations, facts, training}`. */
export const runMetrics = (run) => getJson(`runs/${encode(run)}/metrics`);

/** The trainings of this server, the texts it offers, and why it refuses to train: `{trainings, texts, refusal}`. */
export const trainings = () => getJson("trainings");

/** Starts a training; `fields` are those of POST /trainings. */
export const startTraining = (fields) => post("trainings", fields);

/** Makes a training save and end. */
export const stopTraining = (name) => call(`trainings/${encode(name)}`, { method: "DELETE" });

/**
 * Yields the surprisals in nats of all characters (or bytes) of a text, in consecutive lists. A browser reads no response
 * before it has sent the whole request, so a long text is sent in pieces. A piece starts from the state after the one
 * before, unless a document ended between them. `separator` is the text that ends a document, or "". With `units`, it
 * yields the columns of words instead.
 */
export async function* score(model, text, separator, signal, units = {}) {
  let state = "";
  for (let start = 0; start < text.length; ) {
    const end = pieceEnd(text, start + PIECE);
    const continues = end < text.length && !(separator && text.startsWith(separator, end - separator.length));
    const fields = { model, text: text.slice(start, end), ...(state ? { state } : {}), save_state: continues, ...units };
    const answer = await postJson("score", fields, { signal });
    if (state) call(`states/${state}`, { method: "DELETE" }).catch(() => {}); // it would expire later anyway
    yield answer.units ?? answer.surprisal;
    if (continues && !answer.state) throw new Error("The server loaded a newer checkpoint in the meantime. Please read the text again.");
    state = answer.state ?? "";
    start = end;
  }
}

/** The words of a text; see `score`. */
export const scoreWords = (model, text, separator, signal) => score(model, text, separator, signal, { by: "word", columns: ["characters", "bits"] });

/** The end of the next piece: after a line end if there is one near, so that no separator of documents is split, or after a word. */
function pieceEnd(text, most) {
  if (most >= text.length) return text.length;
  const [first, near] = [most - PIECE / 2, text.slice(most - PIECE / 2, most + 1)];
  const found = /^[^]*\n(?=\S)/.exec(near) ?? /^[^]*\s(?=\S)/.exec(near);
  if (found) return first + found[0].length;
  return /[\ud800-\udbff]/.test(text[most - 1]) ? most - 1 : most;
}
