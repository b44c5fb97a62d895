/** Write: you begin, the model goes on; any character can be exchanged for another that could have stood there. */

import * as api from "./api.js";
import { unitAt } from "./caret.js";
import { dials } from "./dials.js";
import { openOthers } from "./others.js";
import { anySeed, byId, make, named, number, spelled, told } from "./parts.js";
import { trickle } from "./pen.js";
import { copy, save } from "./taking.js";
import { add, before, characterAt, following, preceding, retold, textOf } from "./story.js";

const DEEPEST = 200; // steps that can be undone

let app, choices;
let story = [];
let past = [];
let future = [];
let editing = true;
let writing = null; // the controller of what is being written
let place = null; // the character under the cursor, in units of the text
let column = null; // of the screen, that moves up and down keep to

export function start(theApp) {
  app = theApp;
  choices = dials(byId("write-dials"));
  byId("write-go").addEventListener("click", () => (writing ? stop() : go()));
  byId("write-undo").addEventListener("click", () => travel(past, future));
  byId("write-redo").addEventListener("click", () => travel(future, past));
  byId("write-edit").addEventListener("click", edit);
  byId("write-clear").addEventListener("click", clear);
  byId("write-copy").addEventListener("click", async () => note(await copy(textOf(current()))));
  byId("write-save").addEventListener("click", () => save(textOf(current()), `${app.model}.txt`));
  byId("write-prompt").addEventListener("input", show);
  byId("write").addEventListener("keydown", hotkey);
  const text = byId("write-text");
  text.addEventListener("click", clicked);
  text.addEventListener("keydown", moved);
  text.addEventListener("focus", () => !writing && text.matches(":focus-visible") && point(place ?? firstWritten()));
  show();
}

// --- writing

async function go() {
  if (editing && !yours(story)) remember(story);
  story = current();
  await writeFrom(story);
}

/** The story as it stands, also while you edit it. */
const current = () => (editing ? retold(story, byId("write-prompt").value) : story);

const yours = (told) => told.every((part) => part.by === "you");

async function writeFrom(next) {
  stop();
  remember(story);
  story = next;
  const asked = { seed: anySeed(), ...choices() };
  const controller = (writing = new AbortController());
  editing = false;
  place = null;
  show();
  byId("write-text").focus({ preventScroll: true });
  const begun = { at: performance.now(), length: textOf(story).length };
  try {
    const pieces = api.write({ ...asked, model: app.model, prompt: textOf(story) }, controller.signal);
    const how = await trickle(pieces, put, controller.signal);
    finish(controller, sentence(begun, asked.seed, how));
  } catch (error) {
    finish(controller, told(error) || sentence(begun, asked.seed, { unknown: [] }));
  }
}

function put(text) {
  if (!text) return;
  const sheet = byId("write-text").parentElement;
  const below = sheet.scrollHeight - sheet.scrollTop - sheet.clientHeight < 80;
  story = add(story, text, "model");
  const last = byId("write-text").lastElementChild;
  if (last?.className === "model" && last.firstChild) last.firstChild.appendData(text);
  else byId("write-text").append(make("span", { className: "model" }, text));
  if (below) sheet.scrollTop = sheet.scrollHeight;
}

function stop() {
  writing?.abort();
}

function finish(controller, words) {
  if (writing !== controller) return; // another writing has begun meanwhile
  writing = null;
  show();
  note(words);
}

function sentence({ at, length }, seed, { ended, unknown }) {
  const written = [...textOf(story).slice(length)].length;
  const seconds = (performance.now() - at) / 1000;
  const next = ended ? "The text ended by itself." : "Click any to choose another.";
  const strange = unknown.length ? ` The model has never seen ${spelled(unknown)}.` : "";
  return `${number(written)} characters in ${number(seconds, 1)} s, seed ${seed}. ${next}${strange}`;
}

function note(words) {
  byId("write-note").textContent = words;
  app.say(words);
}

// --- undo, edit

function remember(before) {
  past = [...past, before].slice(-DEEPEST);
  future = [];
}

function travel(from, to) {
  if (!from.length) return;
  stop();
  writing = null;
  to.push(current());
  story = from.pop();
  place = null;
  editing = yours(story);
  byId("write-prompt").value = textOf(story);
  show();
  note(story.length ? `${number([...textOf(story)].length)} characters.` : "");
}

function edit() {
  stop();
  writing = null;
  editing = true;
  const prompt = byId("write-prompt");
  prompt.value = textOf(story);
  show();
  prompt.focus();
  prompt.setSelectionRange(prompt.value.length, prompt.value.length);
}

function clear() {
  stop();
  writing = null;
  remember(current());
  story = [];
  editing = true;
  byId("write-prompt").value = "";
  show();
  note("");
  byId("write-prompt").focus();
}

// --- showing

function show() {
  const text = byId("write-text");
  byId("write-prompt").hidden = !editing;
  text.hidden = editing;
  text.replaceChildren(...spans());
  text.classList.toggle("busy", Boolean(writing));
  text.setAttribute("aria-busy", String(Boolean(writing)));
  const go = byId("write-go");
  go.textContent = writing ? "Stop" : story.length && !editing ? "Write on" : "Write";
  byId("write-undo").disabled = !past.length;
  byId("write-redo").disabled = !future.length;
  byId("write-edit").disabled = editing;
  for (const name of ["clear", "copy", "save"]) byId(`write-${name}`).disabled = editing && !byId("write-prompt").value;
  fit();
}

function* spans() {
  let start = 0;
  for (const { text, by } of story) {
    const at = place === null ? -1 : place - start;
    if (at >= 0 && at < text.length) {
      const end = following(text, at);
      if (at) yield make("span", { className: by }, text.slice(0, at));
      yield make("mark", { id: "write-here", className: by }, text.slice(at, end));
      if (end < text.length) yield make("span", { className: by }, text.slice(end));
    } else yield make("span", { className: by }, text);
    start += text.length;
  }
}

function fit() {
  const prompt = byId("write-prompt");
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

// --- the cursor, and what else could stand there

function firstWritten() {
  let start = 0;
  for (const { text, by } of story) {
    if (by === "model") return start;
    start += text.length;
  }
  return 0;
}

function point(where) {
  const text = textOf(story);
  if (!text) return;
  place = characterAt(text, Math.max(0, Math.min(where, text.length - 1)));
  show();
  byId("write-here").scrollIntoView({ block: "nearest" });
}

function clicked(event) {
  if (writing || String(getSelection())) return;
  const where = unitAt(byId("write-text"), event.clientX, event.clientY);
  if (where === null) return;
  point(where);
  others();
}

/** The unit one visual line above or below the cursor. */
function vertical(direction) {
  const box = byId("write-here").getClientRects()[0];
  column ??= box.left + box.width / 2;
  for (let step = 1; step <= 3; step++) {
    const found = unitAt(byId("write-text"), column, box.top + box.height / 2 + direction * step * box.height * 1.3);
    if (found !== null && found !== place) return found;
  }
  return place;
}

const moves = {
  ArrowRight: (text) => following(text, place),
  ArrowLeft: (text) => preceding(text, place),
  ArrowDown: () => vertical(1),
  ArrowUp: () => vertical(-1),
  Home: () => 0,
  End: (text) => text.length - 1,
};

function moved(event) {
  if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
  const opens = event.key === "Enter" || event.key === " ";
  if (!opens && !(event.key in moves)) return;
  event.preventDefault();
  if (!/^Arrow(Up|Down)$/.test(event.key)) column = null;
  if (place === null) point(firstWritten());
  else if (!opens) point(moves[event.key](textOf(story)));
  if (opens) others();
  else app.say(named(byId("write-here").textContent));
}

function others() {
  const text = textOf(story);
  const here = { place, after: text.slice(0, place), character: text.slice(place, following(text, place)) };
  openOthers(byId("write-here"), here, app, (character) => branch(here, character), () => byId("write-text").focus());
}

function branch({ place: where, character }, other) {
  if (other === character) return;
  writeFrom(add(before(story, where), other, "you"));
}

function hotkey(event) {
  const held = event.ctrlKey || event.metaKey;
  if (held && event.key === "Enter") {
    event.preventDefault();
    if (!writing) go();
  } else if (event.key === "Escape" && writing) stop();
  else if (held && event.key.toLowerCase() === "z" && event.target !== byId("write-prompt")) {
    event.preventDefault();
    if (event.shiftKey) travel(future, past);
    else travel(past, future);
  }
}
