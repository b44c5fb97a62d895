/** Read: shows how surprising a text is to the model, by character, word or line. */

import { openAlternatives } from "./alternatives.js";
import * as api from "./api.js";
import { approximate, byId, errorText, hide, inline, make, nameCharacter, nextFrame, number, on, option, say } from "./elements.js";
import { showExamples } from "./examples.js";
import { unitAt } from "./hit_test.js";
import { LineOrder, ORDERS } from "./line_order.js";
import { isMark, nextCharacter, previousCharacter, startOfCharacter } from "./passages.js";
import { levelNames, levelOf, ScoredText } from "./scored_text.js";
import { load, store } from "./storage.js";
import { lineEndWarning, openText } from "./text_checks.js";
import { VirtualRows } from "./virtual_rows.js";
import { Words } from "./words.js";

const CONTEXT = 22; // UTF-16 code units shown on both sides of a surprising place
const BEFORE = 20_000; // UTF-16 code units of the text before a place that decide its alternatives
const CHANGES = "Choose one to put it there. The text is then read again.";
const CHARACTERS = 0x110000; // of Unicode
const BY = "scriven-read-by"; // key of what the browser keeps
/** What a text is coloured by, and what the key's numbers are. */
const KEYS = { characters: (symbol) => `bits per ${symbol}`, words: () => "bits per word", lines: (symbol) => `bits per ${symbol} of a line` };

const part = (name) => byId(`read-${name}`);
const [source, pane] = [part("source"), part("text")];
let app, rows;
let scored = null; // the text and its surprisals
let busy = null; // the controller of the text that is being scored
let order = null; // of the lines
let chosen = -1; // the place that was picked, from the list or in the text

/** What the text is coloured by. The words of a model of tokens are its tokens, which it scores as it does characters. */
const by = () => (part("by").value === "words" && scored?.byTokens ? "characters" : part("by").value);

export function start(theApp) {
  app = theApp;
  rows = new VirtualRows(pane, draw);
  on("read-go", "click", () => (busy ? busy.abort() : read(source.value)));
  on("read-edit", "click", editAnother);
  on("read-file", "click", () => part("choose").click());
  on("read-choose", "change", onFile);
  on("read", "dragover", (event) => event.preventDefault());
  on("read", "drop", onDrop);
  on("read", "keydown", onKey);
  on("read-text", "mousemove", onHover);
  on("read-text", "click", onClick);
  on("read-text", "keydown", onMove);
  on("read-source", "input", () => show(false));
  part("order").replaceChildren(...Object.keys(ORDERS).map(option));
  on("read-order", "change", () => arrange());
  on("read-without-ends", "change", onEnds);
  part("by").replaceChildren(...Object.keys(KEYS).filter((name) => api.HAS_SERVER || name !== "words").map(option));
  part("by").value = load(BY) ?? "characters";
  if (!part("by").value) part("by").value = "characters"; // kept by another page
  on("read-by", "change", onBy);
  on("read-places", "click", (event) => onPlaceClick(event.target.closest("button")));
  app.onModel(() => !byId("read").hidden && (scored ? read(scored.text) : show(false)));
  showKey();
  clearResults();
}

export function shown() {
  if (scored) rows.show();
  else show(false);
}

function onKey(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && !busy) read(source.value);
  if (event.key === "Escape") busy?.abort();
}

function onDrop(event) {
  event.preventDefault();
  read(event.dataTransfer.files[0] ?? event.dataTransfer.getData("text"));
}

function onFile({ target }) {
  if (target.files[0]) read(target.files[0]);
  target.value = "";
}

/** The text of a file, which is opened until `signal` stops that. */
function open(file, signal) {
  source.value = "";
  show(scored);
  note(`Opening ${file.name} …`);
  return openText(file, signal);
}

// --- reading

/** Reads a text, or that of a file. `place` is a unit of it that is to be in sight. */
async function read(text, place = 0) {
  busy?.abort();
  if (!text) return refuse("Paste some text first, or open a file.");
  const controller = (busy = new AbortController());
  say("read-go", "Stop");
  let mine = null;
  try {
    if (text instanceof File) text = await open(text, controller.signal);
    const facts = await api.tokenizerFacts(app.model, controller.signal);
    controller.signal.throwIfAborted();
    scored = mine = new ScoredText(text, facts);
    scored.countsEnds = !part("without-ends").checked;
    part("bits").nextElementSibling.textContent = `bits per ${scored.symbol}`;
    chosen = -1;
    clearResults(lineEndWarning(text, facts));
    show(true);
    const wrapped = arrange(place);
    await scoreAll(controller.signal);
    await scoreWords(controller.signal);
    await wrapped;
    end(controller, `${number(scored.whole.characters)} ${scored.symbol}s.`);
  } catch (error) {
    if (busy !== controller) return; // another text is being read by now
    if (mine) end(controller, errorText(error) || `Stopped after ${number(mine.whole.characters)} ${mine.symbol}s.`);
    else refuse(errorText(error));
  }
}

async function scoreAll(signal) {
  const mine = scored;
  let drawnAt = -Infinity;
  for await (const surprisal of api.score(app.model, mine.text, mine.separator, signal)) {
    signal.throwIfAborted();
    mine.add(surprisal.map((nats) => nats / Math.LN2));
    if (performance.now() - drawnAt < 150) continue;
    drawnAt = performance.now();
    showProgress();
    await nextFrame();
    signal.throwIfAborted();
  }
}

/** Asks for the words of the text, if it is to be coloured by them and they are not known. */
async function scoreWords(signal) {
  const mine = scored;
  if (by() !== "words" || mine.words?.done >= mine.text.length) return;
  mine.words = new Words(mine);
  for await (const units of api.scoreWords(app.model, mine.text, mine.separator, signal)) {
    signal.throwIfAborted();
    mine.words.add(units);
    showProgress();
    await nextFrame();
    signal.throwIfAborted();
  }
}

/** Colours by something else. A text that is being read is coloured so as it comes, and its words come last. */
async function onBy() {
  store(BY, part("by").value);
  showKey();
  if (!scored) return;
  showProgress();
  if (busy || by() !== "words" || scored.done < scored.text.length) return;
  const controller = (busy = new AbortController());
  show(true);
  try {
    await scoreWords(controller.signal);
    end(controller, "");
  } catch (error) {
    end(controller, errorText(error) || "Stopped.");
  }
}

function end(controller, words) {
  if (busy !== controller) return;
  busy = null;
  show(true);
  showProgress();
  note(words);
  app.announce(`${words} ${part("bits").textContent} bits per ${scored.symbol}.`);
}

/** Shows why a text cannot be read, and clears the text shown before. */
function refuse(words) {
  busy?.abort();
  busy = scored = null;
  clearResults();
  show(false);
  note(words);
  app.announce(words);
}

function editAnother() {
  busy?.abort();
  busy = null;
  if (scored.text.length < 1_000_000) source.value = scored.text;
  show(false);
  note("");
  source.focus();
}

// --- showing

const note = (words) => say("read-note", words);

function show(result) {
  hide("read-source", result);
  hide("read-text", !result);
  hide("read-results", !result);
  hide("read-edit", !result || busy);
  hide("read-lines", !result || busy || !scored.text.includes("\n"));
  hide("read-ends-choice", !result || busy || !scored.hasEnds);
  showExamples(part("examples"), result || source.value ? "" : app.model, read);
  hide("read-go", result && !busy);
  say("read-go", busy ? "Stop" : "Read");
}

/** Clears the results; `warning` is about the text's line ends. */
function clearResults(warning = "") {
  say("read-bits", "–");
  say("read-means", "The fewer, the better the model predicted the text.");
  say("read-ends", warning);
  hide("read-ends", !warning);
  part("places").replaceChildren();
  part("order").selectedIndex = 0;
}

function showProgress() {
  const { text, done, bitsPerCharacter } = scored;
  const { characters } = scored.tally;
  if (!characters) return;
  say("read-bits", number(bitsPerCharacter, 3));
  say("read-means", meaning(2 ** bitsPerCharacter));
  if (busy) note(`${number(characters)} ${scored.symbol}s, ${Math.floor((100 * done) / text.length)} % …`);
  part("places").replaceChildren(...places().map(placeItem));
  rows.show();
}

/** The most surprising characters, words or lines. Those of lines are known once the text is read. */
function places() {
  if (by() === "words") return scored.words?.most.places ?? [];
  if (by() === "lines") return busy ? [] : scored.lines;
  return scored.tally.most.places;
}

/** The character, word or line at a unit, as `{start, end, bits}`; undefined if it is not scored yet. */
function unitAround(unit) {
  if (by() === "words") return scored.words?.at(unit);
  if (by() === "lines") return scored.lineAt(unit);
  if (unit >= scored.done) return undefined;
  const [start, end] = scored.symbolAt(unit);
  return { start, end, bits: scored.bitsAt(unit) };
}

function showKey() {
  part("key").replaceChildren(...levelNames(by()).map((words, level) => inline(`s${level}`, words)));
  const scale = KEYS[by()](scored?.symbol ?? "character");
  part("key").ariaLabel = `Colours for ${scale}, from pale to dark`;
  say("read-scale", scale);
}

/** Shows the lines in the chosen order; resolves when all of them are wrapped. */
async function arrange(place = chosen) {
  order = new LineOrder(scored, busy ? 0 : ORDERS[part("order").value]);
  const wrapped = rows.set(order.text);
  await wrapped;
  if (place > 0) rows.reveal(order.placeOf(place));
}

function onEnds() {
  scored.countsEnds = !part("without-ends").checked;
  arrange();
  showProgress();
}

function meaning(choices) {
  if (choices > CHARACTERS) return `Worse than guessing among all ${number(CHARACTERS)} characters of Unicode.`;
  return `On average like guessing among ${approximate(choices)} equally likely ${scored.symbol}s.`;
}

function placeItem({ unit, bits }) {
  const { text } = scored;
  const whole = text.slice(unit, unitAround(unit).end);
  const bare = by() === "characters" ? whole : whole.trimEnd();
  const words = by() === "characters" ? visible(whole) : onOneLine([...bare.trimStart()].slice(0, 2 * CONTEXT).join("")) || visible(whole[0]);
  const after = unit + (bare || whole).length;
  const context = inline("context",
    inline("lead", onOneLine(text.slice(Math.max(0, unit - CONTEXT), unit))),
    make("mark", { className: `s${levelOf(bits, by())}` }, words),
    make("span", {}, onOneLine(text.slice(after, after + CONTEXT))));
  const button = make("button", { value: unit }, context, inline("share", `${number(bits, by() === "lines" ? 2 : 1)} bits`));
  return make("li", {}, button);
}

const onOneLine = (text) => text.replaceAll(/\s/g, " ");
const SIGNS = { "\n": "↵", "\r": "␍" };
const visible = (character) => SIGNS[character] ?? (/\s/.test(character) ? "␣" : character);

function onPlaceClick(button) {
  if (!button) return;
  choose(Number(button.value));
  rows.reveal(order.placeOf(chosen));
  pane.focus({ preventScroll: true });
}

/** Marks the character at `unit` and says how surprising it is. */
function choose(unit) {
  chosen = unit;
  rows.show();
  describe(chosen);
}

/** One row of the text, coloured. The first row of a line shows the line's bits per character or token. */
function draw(from, to) {
  const start = order.unitOf(from);
  const end = Math.min(scored.text.length, start + to - from);
  const line = scored.lineStarts.lastUpTo(start);
  const first = scored.lineStarts.values[line] === start && start < Math.max(1, scored.done);
  const { values, length } = scored.tally.lineBits;
  const mean = first && line < length ? values[line] : NaN;
  const label = Number.isNaN(mean) ? "" : number(mean, 2);
  const made = make("div", { className: "row", dir: "auto" }, make("span", { className: "cost", ariaHidden: "true" }, label), ...spans(start, end));
  made.dataset.start = start;
  return made;
}

/** The parts of a row that are coloured alike. A mark is coloured with the letter that it belongs to, so that both are one glyph. */
function* spans(start, end) {
  const { text } = scored;
  const here = chosen < 0 ? { start: end, end } : (unitAround(chosen) ?? { start: chosen, end: nextCharacter(text, chosen) });
  const isHere = (unit) => unit >= here.start && unit < here.end;
  for (let from = start; from < end; ) {
    const level = levelAt(from);
    let to = from + 1;
    while (to < end && isHere(to) === isHere(from) && (levelAt(to) === level || isMark(text, to))) to++;
    yield span(text.slice(from, to), level, isHere(from));
    from = to;
  }
}

function levelAt(unit) {
  if (by() === "characters" && unit < scored.done && !scored.counts(unit)) return 0;
  const found = unitAround(unit);
  return found ? levelOf(found.bits, by()) : -1;
}

function span(text, level, here) {
  const words = level > 1 || here ? text.replaceAll(/[\r\n]/g, visible) : text.replaceAll("\n", " ");
  if (level < 1 && !here) return inline(level < 0 ? "ahead" : "", words);
  return inline(`s${Math.max(0, level)}${here ? " here" : ""}`, words);
}

/** The unit of the text under the pointer, or null. */
function unitUnder(event) {
  const row = event.target.closest(".row");
  const unit = row && !busy ? unitAt(row, event.clientX, event.clientY) : null;
  if (unit === null) return null;
  const at = unit - row.firstChild.textContent.length;
  return at >= 0 ? startOfCharacter(scored.text, Number(row.dataset.start) + at) : null;
}

function onHover(event) {
  const unit = unitUnder(event);
  if (unit !== null) describe(unit);
}

function describe(unit) {
  const found = unitAround(unit);
  if (found) note(sentence(found));
}

function sentence({ start, end, bits }) {
  if (by() === "lines") return `Line ${number(scored.lineStarts.lastUpTo(start) + 1)}: ${number(bits, 2)} bits per ${scored.symbol}.`;
  const words = scored.text.slice(start, end);
  const name = by() === "words" ? words.trim() || nameCharacter(words[0]) : nameCharacter(words);
  return `“${name}”: ${number(bits, 1)} bits. The model gave it a chance of 1 in ${approximate(2 ** bits)}.`;
}

// --- what else could stand there

function onClick(event) {
  const unit = String(getSelection()) ? null : unitUnder(event);
  if (unit === null || unit >= scored.done) return;
  choose(unit);
  showAlternatives();
}

/** The next character, word or line, and the one before, by the names of keys. */
const moves = {
  ArrowRight: (text, unit) => unitAround(unit)?.end ?? nextCharacter(text, unit),
  ArrowLeft: (text, unit) => {
    const { start } = unitAround(unit) ?? { start: unit };
    return unitAround(previousCharacter(text, start))?.start ?? previousCharacter(text, start);
  },
};

function onMove(event) {
  if (busy || !scored?.done || event.ctrlKey || event.metaKey || event.altKey) return;
  const opens = event.key === "Enter" && chosen >= 0;
  if (!opens && !(event.key in moves)) return;
  event.preventDefault();
  if (opens) return showAlternatives();
  const next = chosen < 0 ? order.unitOf(rows.top) : moves[event.key](scored.text, chosen);
  choose(Math.min(next, startOfCharacter(scored.text, scored.text.length - 1)));
  if (!pane.querySelector(".here")) rows.reveal(order.placeOf(chosen));
  app.announce(part("note").textContent);
}

function showAlternatives() {
  const { text } = scored;
  const place = chosen;
  const end = nextCharacter(text, place);
  const before = text.slice(startOfCharacter(text, Math.max(0, place - BEFORE)), place);
  const found = by() === "characters" ? null : unitAround(place);
  const here = { before, character: text.slice(place, end), hint: found ? `${sentence(found)} ${CHANGES}` : CHANGES };
  const replace = (character) => character !== here.character && read(text.slice(0, place) + character + text.slice(end), place);
  openAlternatives(pane.querySelector(".here"), here, app, replace, () => pane.focus({ preventScroll: true }));
}
