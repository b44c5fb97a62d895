/** The server's HTTP interface: everything that the page knows of it. */

const KEY = "scriven-token";
const PIECE = 20_000; // characters that are scored at once
let askForToken = async () => null;

/** What the server refused, in its own words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** `ask()` is called where the server wants a token; it resolves to one, or to null. */
export function whenLocked(ask) {
  askForToken = ask;
}

/** Keeps the token that stands behind # in the address, as `scriven serve` may print it, and takes it out of sight. */
export function takeToken() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem(KEY, decodeURIComponent(found[1]));
  history.replaceState(null, "", location.pathname + location.search);
}

async function call(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    const given = await askForToken();
    if (given) {
      sessionStorage.setItem(KEY, given);
      return call(path, options);
    }
  }
  if (!response.ok) throw new Refused(response.status, await reason(response));
  return response;
}

async function reason(response) {
  const words = await response.text();
  try {
    return JSON.parse(words).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

function post(path, value, options = {}) {
  const headers = { "Content-Type": "application/json", ...options.headers };
  return call(path, { ...options, method: "POST", headers, body: JSON.stringify(value) });
}

/** The lines of an answer as they come. */
export async function* linesOf(response) {
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

/** The values of a stream of server-sent events, each of which is one line of JSON. */
export async function* eventsOf(response) {
  for await (const line of linesOf(response)) {
    if (!line.startsWith("data:")) continue;
    const words = line.slice(5).trim();
    if (words === "[DONE]") return;
    const value = JSON.parse(words);
    if (value.error) throw new Refused(response.status, value.error.message);
    yield value;
  }
}

/** The names of the models that are served. */
export async function models() {
  const answer = await (await call("v1/models")).json();
  return answer.data.map((each) => each.id);
}

/**
 * Pieces of text as they are written: `{text, ended, unknown}`, unknown being characters of the prompt that the model
 * does not know; `choices` are the fields of a completion.
 */
export async function* write(choices, signal) {
  const response = await post("v1/completions", { ...choices, stream: true }, { signal });
  for await (const event of eventsOf(response)) {
    const choice = event.choices[0];
    const unknown = event.unknown_characters ?? [];
    if (choice) yield { text: choice.text, ended: choice.finish_reason === "stop", unknown };
  }
}

const NO_TEXT = /^(<unk>|bytes:.*)$/; // names of symbols that are no character by themselves

/** The likeliest characters after a text: `[{text, probability}]`, likeliest first. */
export async function likeliest(model, prompt, count, signal) {
  const asked = { model, prompt, max_tokens: 1, temperature: 1, logprobs: count };
  const answer = await (await post("v1/completions", asked, { signal })).json();
  const told = Object.entries(answer.choices[0].logprobs.top_logprobs[0] ?? {});
  const found = told.filter(([text]) => !NO_TEXT.test(text));
  return found.map(([text, log]) => ({ text, probability: Math.exp(log) })).sort((a, b) => b.probability - a.probability);
}

/**
 * How a model counts: `unit`, "character" or "byte"; `edge`, what stands between two of its documents, or ""; and
 * `returns`, whether it knows the character "\r".
 */
export async function counting(model) {
  const asked = [call(`tokenizer_info?model=${encodeURIComponent(model)}`), post("tokenize", { model, prompt: "\r" })];
  const [info, read] = await Promise.all((await Promise.all(asked)).map((answer) => answer.json()));
  return { unit: info.unit, edge: info.separator ?? "", returns: read.tokens[0] < info.vocab_size };
}

/** What happened in a run so far, and then what happens, as it does; see `scriven.server.run_monitor`. */
export async function* story(run, signal) {
  yield* eventsOf(await call(`runs/${encodeURIComponent(run)}/events`, { signal }));
}

/**
 * The surprisal in nats of every character (or byte) of a text, as lists that follow each other. A browser reads no
 * answer before it has sent everything: a long text goes in pieces, each with the state after the one before, if that
 * ended within a document; `edge` is what ends these, or "".
 */
export async function* score(model, text, edge, signal) {
  let state = "";
  for (let start = 0; start < text.length; ) {
    const end = pieceEnd(text, start + PIECE);
    const goesOn = end < text.length && !(edge && text.startsWith(edge, end - edge.length));
    const asked = { model, text: text.slice(start, end), ...(state ? { state } : {}), save_state: goesOn };
    const answer = await (await post("score", asked, { signal })).json();
    if (state) call(`states/${state}`, { method: "DELETE" }).catch(() => {}); // it would go by itself, later
    yield answer.surprisal;
    if (goesOn && !answer.state) throw new Error("The server took up a newer checkpoint meanwhile; score the text again.");
    state = answer.state ?? "";
    start = end;
  }
}

/** A piece ends with a line where it can, so that no document is cut in its separator. */
function pieceEnd(text, most) {
  if (most >= text.length) return text.length;
  const line = text.lastIndexOf("\n", most) + 1;
  if (line > most - PIECE / 2) return line;
  return /[\ud800-\udbff]/.test(text[most - 1]) ? most - 1 : most;
}
