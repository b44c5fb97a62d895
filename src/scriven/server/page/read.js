/** Read: shows how surprising a text is to the model, character by character and line by line. */

import * as api from "./api.js";
import { approximate, byId, errorText, make, nameCharacter, nextFrame, number } from "./elements.js";
import { unitAt } from "./hit_test.js";
import { nextCharacter } from "./passages.js";
import { levelNames, levelOf, ScoredText } from "./scored_text.js";
import { isBinary, lineEndWarning } from "./text_checks.js";
import { VirtualRows } from "./virtual_rows.js";

const CONTEXT = 22; // UTF-16 code units shown on both sides of a surprising place
const HEAD = 65_536; // bytes of a file that are checked before the whole file is opened
const CHARACTERS = 0x110000; // of Unicode

let app, rows;
let scored = null; // the text and its surprisals
let busy = null; // the controller of the text that is being scored
let chosen = -1; // the place that was picked from the list

export function start(theApp) {
  app = theApp;
  rows = new VirtualRows(byId("read-text"), draw);
  byId("read-go").addEventListener("click", () => (busy ? busy.abort() : read(byId("read-source").value)));
  byId("read-edit").addEventListener("click", editAnother);
  byId("read-file").addEventListener("click", () => byId("read-choose").click());
  byId("read-choose").addEventListener("change", (event) => open(event.target.files[0]));
  byId("read").addEventListener("dragover", (event) => event.preventDefault());
  byId("read").addEventListener("drop", onDrop);
  byId("read").addEventListener("keydown", onKey);
  byId("read-text").addEventListener("mousemove", onHover);
  byId("read-places").addEventListener("click", (event) => onPlaceClick(event.target.closest("button")));
  app.onModel(() => scored && !byId("read").hidden && read(scored.text));
  byId("read-key").replaceChildren(...levelNames.map((words, level) => make("span", { className: `s${level}` }, words)));
  clearResults();
}

export function shown() {
  rows.show();
}

function onKey(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && !busy) read(byId("read-source").value);
  if (event.key === "Escape") busy?.abort();
}

async function onDrop(event) {
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file) await open(file);
  else await read(event.dataTransfer.getData("text"));
}

async function open(file) {
  if (!file) return;
  note(`Opening ${file.name} …`);
  try {
    const head = await file.slice(0, HEAD).text();
    const text = isBinary(head) ? "" : await file.text();
    if (text && !isBinary(text)) return await read(text);
    byId("read-source").value = "";
    refuse(file.size ? `${file.name} is not plain text. Save it as plain text (UTF-8) and open that.` : `${file.name} is empty.`);
  } catch (error) {
    refuse(errorText(error));
  } finally {
    byId("read-choose").value = "";
  }
}

// --- reading

async function read(text) {
  busy?.abort();
  if (!text) return refuse("Paste some text first, or open a file.");
  const controller = (busy = new AbortController());
  let mine = null;
  try {
    const facts = await api.tokenizerFacts(app.model);
    controller.signal.throwIfAborted();
    scored = mine = new ScoredText(text, facts);
    chosen = -1;
    clearResults(lineEndWarning(text, facts));
    show(true);
    const wrapped = rows.set(text);
    await scoreAll(controller.signal);
    await wrapped;
    end(controller, `${number(scored.characters)} characters.`);
  } catch (error) {
    if (busy !== controller) return; // another text is being read by now
    if (mine) end(controller, errorText(error) || `Stopped after ${number(mine.characters)} characters.`);
    else refuse(errorText(error));
  }
}

async function scoreAll(signal) {
  const mine = scored;
  let drawnAt = -Infinity;
  for await (const surprisal of api.score(app.model, mine.text, mine.separator, signal)) {
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
    mine.add(surprisal.map((nats) => nats / Math.LN2));
    if (performance.now() - drawnAt < 150) continue;
    drawnAt = performance.now();
    showProgress();
    await nextFrame();
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
  }
}

function end(controller, words) {
  if (busy !== controller) return;
  busy = null;
  show(true);
  showProgress();
  note(words);
  app.announce(`${words} ${byId("read-bits").textContent} bits per character.`);
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
  if (scored.text.length < 1_000_000) byId("read-source").value = scored.text;
  show(false);
  note("");
  byId("read-source").focus();
}

// --- showing

function note(words) {
  byId("read-note").textContent = words;
}

function show(result) {
  byId("read-source").hidden = result;
  byId("read-text").hidden = !result;
  byId("read-edit").hidden = !result || Boolean(busy);
  byId("read-go").hidden = result && !busy;
  byId("read-go").textContent = busy ? "Stop" : "Read";
}

/** Clears the results; `warning` is about the text's line ends. */
function clearResults(warning = "") {
  byId("read-bits").textContent = "–";
  byId("read-means").textContent = "The fewer, the better the model predicted the text.";
  byId("read-ends").textContent = warning;
  byId("read-ends").hidden = !warning;
  byId("read-places").replaceChildren();
}

function showProgress() {
  const { text, done, characters, bitsPerCharacter } = scored;
  if (!characters) return;
  byId("read-bits").textContent = number(bitsPerCharacter, 3);
  byId("read-means").textContent = meaning(2 ** bitsPerCharacter);
  if (busy) note(`${number(characters)} characters, ${Math.floor((100 * done) / text.length)} % …`);
  byId("read-places").replaceChildren(...scored.places.map(placeItem));
  rows.show();
}

function meaning(choices) {
  if (choices > CHARACTERS) return `Worse than guessing among all ${number(CHARACTERS)} characters of Unicode.`;
  return `On average like guessing among ${approximate(choices)} equally likely characters.`;
}

function placeItem({ unit, bits }) {
  const { text } = scored;
  const end = nextCharacter(text, unit);
  const context = make("span", { className: "context" },
    make("span", { className: "lead" }, onOneLine(text.slice(Math.max(0, unit - CONTEXT), unit))),
    make("mark", { className: `s${levelOf(bits)}` }, visible(text.slice(unit, end))),
    make("span", {}, onOneLine(text.slice(end, end + CONTEXT))));
  const button = make("button", { type: "button", value: unit }, context, make("span", { className: "share" }, `${number(bits, 1)} bits`));
  return make("li", {}, button);
}

const onOneLine = (text) => text.replaceAll(/\s/g, " ");
const SIGNS = { "\n": "↵", "\r": "␍" };
const visible = (character) => SIGNS[character] ?? (/\s/.test(character) ? "␣" : character);

function onPlaceClick(button) {
  if (!button) return;
  chosen = Number(button.value);
  rows.reveal(chosen);
  byId("read-text").focus({ preventScroll: true });
  describe(chosen);
}

/** One row of the text, coloured. The first row of a line shows the line's bits per character. */
function draw(start, end) {
  const line = scored.lineStarts.lastUpTo(start);
  const first = scored.lineStarts.values[line] === start && start < Math.max(1, scored.done);
  const mean = first && line < scored.lineBits.length ? scored.lineBits.values[line] : NaN;
  const label = Number.isNaN(mean) ? "" : number(mean, 2);
  const made = make("div", { className: "row" }, make("span", { className: "cost", ariaHidden: "true" }, label), ...spans(start, end));
  made.dataset.start = start;
  return made;
}

function* spans(start, end) {
  const { text } = scored;
  for (let from = start; from < end; ) {
    const level = levelAt(from);
    let to = from + 1;
    while (to < end && to !== chosen && from !== chosen && levelAt(to) === level) to++;
    if (from === chosen) to = nextCharacter(text, from);
    yield span(text.slice(from, to), level, from === chosen);
    from = to;
  }
}

const levelAt = (unit) => (unit < scored.done ? levelOf(scored.bitsAt(unit)) : -1);

function span(text, level, here) {
  const words = level > 1 || here ? text.replaceAll(/[\r\n]/g, visible) : text.replaceAll("\n", " ");
  if (level < 1 && !here) return make("span", { className: level < 0 ? "ahead" : "" }, words);
  return make("span", { className: `s${level}${here ? " here" : ""}` }, words);
}

function onHover(event) {
  const row = event.target.closest(".row");
  const unit = row && !busy ? unitAt(row, event.clientX, event.clientY) : null;
  if (unit === null) return;
  const at = unit - row.firstChild.textContent.length;
  if (at >= 0) describe(Number(row.dataset.start) + at);
}

function describe(unit) {
  if (unit >= scored.done) return;
  const bits = scored.bitsAt(unit);
  const character = nameCharacter(scored.text.slice(unit, nextCharacter(scored.text, unit)));
  note(`“${character}”: ${number(bits, 1)} bits. The model gave it a chance of 1 in ${approximate(2 ** bits)}.`);
}
