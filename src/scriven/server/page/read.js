/** Read: how surprising a text is to the model, character by character, line by line. */

import * as api from "./api.js";
import { unitAt } from "./caret.js";
import { about, byId, frame, make, named, number, told } from "./parts.js";
import { Reading, levelNames, levelOf } from "./reading.js";
import { Rows } from "./rows.js";
import { following } from "./story.js";
import { isBinary, lineEnds } from "./texts.js";

const AROUND = 22; // units of text shown on both sides of a surprising place
const HEAD = 65_536; // bytes of a file that are looked at before all of it is opened
const CHARACTERS = 0x110000; // that there are

let app, rows;
let reading = null;
let busy = null; // the controller of what is being read
let chosen = -1; // the unit that was picked from the list

export function start(theApp) {
  app = theApp;
  rows = new Rows(byId("read-text"), draw);
  byId("read-go").addEventListener("click", () => (busy ? busy.abort() : read(byId("read-source").value)));
  byId("read-edit").addEventListener("click", another);
  byId("read-file").addEventListener("click", () => byId("read-choose").click());
  byId("read-choose").addEventListener("change", (event) => open(event.target.files[0]));
  byId("read").addEventListener("dragover", (event) => event.preventDefault());
  byId("read").addEventListener("drop", dropped);
  byId("read").addEventListener("keydown", hotkey);
  byId("read-text").addEventListener("mousemove", hovered);
  byId("read-places").addEventListener("click", (event) => picked(event.target.closest("button")));
  app.onModel(() => reading && !byId("read").hidden && read(reading.text));
  byId("read-key").replaceChildren(...levelNames.map((words, level) => make("span", { className: `s${level}` }, words)));
  blank();
}

export function shown() {
  rows.show();
}

function hotkey(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && !busy) read(byId("read-source").value);
  if (event.key === "Escape") busy?.abort();
}

async function dropped(event) {
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
    refuse(file.size ? `${file.name} is not plain text. Save it as text (UTF-8), and open that.` : `${file.name} is empty.`);
  } catch (error) {
    refuse(told(error));
  } finally {
    byId("read-choose").value = "";
  }
}

// --- reading

async function read(text) {
  busy?.abort();
  if (!text) return refuse("There is no text to read yet.");
  const controller = (busy = new AbortController());
  let mine = null;
  try {
    const counting = await api.counting(app.model);
    controller.signal.throwIfAborted();
    reading = mine = new Reading(text, counting);
    chosen = -1;
    blank(lineEnds(text, counting));
    show(true);
    const cutting = rows.set(text);
    await follow(controller.signal);
    await cutting;
    end(controller, `${number(reading.characters)} characters.`);
  } catch (error) {
    if (busy !== controller) return; // another reading has begun meanwhile
    if (mine) end(controller, told(error) || `Stopped after ${number(mine.characters)} characters.`);
    else refuse(told(error));
  }
}

async function follow(signal) {
  const mine = reading;
  let drawn = -Infinity;
  for await (const surprisal of api.score(app.model, mine.text, mine.edge, signal)) {
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
    mine.take(surprisal.map((nats) => nats / Math.LN2));
    if (performance.now() - drawn < 150) continue;
    drawn = performance.now();
    progress();
    await frame();
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
  }
}

function end(controller, words) {
  if (busy !== controller) return;
  busy = null;
  show(true);
  progress();
  note(words);
  app.say(`${words} ${byId("read-bits").textContent} bits per character.`);
}

/** Says why there is nothing to read; what was read before is gone. */
function refuse(words) {
  busy?.abort();
  busy = reading = null;
  blank();
  show(false);
  note(words);
  app.say(words);
}

function another() {
  busy?.abort();
  busy = null;
  if (reading.text.length < 1_000_000) byId("read-source").value = reading.text;
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

/** Clears what was found; `ends` is what there is to say of the ends of lines. */
function blank(ends = "") {
  byId("read-bits").textContent = "–";
  byId("read-means").textContent = "The fewer, the better the model foresaw the text.";
  byId("read-ends").textContent = ends;
  byId("read-ends").hidden = !ends;
  byId("read-places").replaceChildren();
}

function progress() {
  const { text, done, characters, bitsPerCharacter } = reading;
  if (!characters) return;
  byId("read-bits").textContent = number(bitsPerCharacter, 3);
  byId("read-means").textContent = means(2 ** bitsPerCharacter);
  if (busy) note(`${number(characters)} characters, ${Math.floor((100 * done) / text.length)} % …`);
  byId("read-places").replaceChildren(...reading.places.map(place));
  rows.show();
}

function means(choices) {
  if (choices > CHARACTERS) return `Harder to foresee than a fair draw from all ${number(CHARACTERS)} characters that there are.`;
  return `As hard to foresee as a fair draw from ${about(choices)} characters each time.`;
}

function place({ unit, bits }) {
  const { text } = reading;
  const end = following(text, unit);
  const context = make("span", { className: "context" },
    make("span", { className: "lead" }, plain(text.slice(Math.max(0, unit - AROUND), unit))),
    make("mark", { className: `s${levelOf(bits)}` }, sign(text.slice(unit, end))),
    make("span", {}, plain(text.slice(end, end + AROUND))));
  const button = make("button", { type: "button", value: unit }, context, make("span", { className: "share" }, `${number(bits, 1)} bits`));
  return make("li", {}, button);
}

const plain = (text) => text.replaceAll(/\s/g, " ");
const SIGNS = { "\n": "↵", "\r": "␍" };
const sign = (character) => SIGNS[character] ?? (/\s/.test(character) ? "␣" : character);

function picked(button) {
  if (!button) return;
  chosen = Number(button.value);
  rows.reveal(chosen);
  byId("read-text").focus({ preventScroll: true });
  tell(chosen);
}

/** One row of the text: what its line costs, where the line begins, and its characters, coloured. */
function draw(start, end) {
  const line = reading.lineStarts.lastUpTo(start);
  const first = reading.lineStarts.values[line] === start && start < Math.max(1, reading.done);
  const mean = first && line < reading.lineBits.length ? reading.lineBits.values[line] : NaN;
  const cost = Number.isNaN(mean) ? "" : number(mean, 2);
  const made = make("div", { className: "row" }, make("span", { className: "cost", ariaHidden: "true" }, cost), ...runs(start, end));
  made.dataset.start = start;
  return made;
}

function* runs(start, end) {
  const { text } = reading;
  for (let from = start; from < end; ) {
    const level = levelAt(from);
    let to = from + 1;
    while (to < end && to !== chosen && from !== chosen && levelAt(to) === level) to++;
    if (from === chosen) to = following(text, from);
    yield run(text.slice(from, to), level, from === chosen);
    from = to;
  }
}

const levelAt = (unit) => (unit < reading.done ? levelOf(reading.bitsAt(unit)) : -1);

function run(text, level, here) {
  const words = level > 1 || here ? text.replaceAll(/[\r\n]/g, sign) : text.replaceAll("\n", " ");
  if (level < 1 && !here) return make("span", { className: level < 0 ? "ahead" : "" }, words);
  return make("span", { className: `s${level}${here ? " here" : ""}` }, words);
}

function hovered(event) {
  const row = event.target.closest(".row");
  const unit = row && !busy ? unitAt(row, event.clientX, event.clientY) : null;
  if (unit === null) return;
  const at = unit - row.firstChild.textContent.length;
  if (at >= 0) tell(Number(row.dataset.start) + at);
}

function tell(unit) {
  if (unit >= reading.done) return;
  const bits = reading.bitsAt(unit);
  const character = named(reading.text.slice(unit, following(reading.text, unit)));
  note(`“${character}”: ${number(bits, 1)} bits, foreseen with 1 in ${about(2 ** bits)}.`);
}
