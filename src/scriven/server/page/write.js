/** Write: you begin a text and the model continues it. You can replace any character with a likely alternative. */

import { openAlternatives } from "./alternatives.js";
import * as api from "./api.js";
import { copy, save } from "./download.js";
import { byId, errorText, inline, make, nameCharacter, number, on, percent, randomSeed, spellOut } from "./elements.js";
import { fillHistory } from "./history.js";
import { unitAt } from "./hit_test.js";
import { prepareStart, showStart } from "./introduction.js";
import { forgetTexts, loadTexts, storeTexts } from "./kept_texts.js";
import { appendText, firstUnits, nextCharacter, previousCharacter, startOfCharacter, textOf, withEditedText } from "./passages.js";
import { linkTo, readLink } from "./permalink.js";
import { makeRules, RULE_NAMES } from "./rules.js";
import { makeControls } from "./sampling_controls.js";
import { levelOf, scoreText } from "./scored_text.js";
import { load, store } from "./storage.js";
import { typeOut } from "./typewriter.js";
import { Versions } from "./versions.js";

const UNDO_STEPS = 200;
const START_KEY = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘ ↵" : "Ctrl ↵";
const RIGHT_TO_LEFT = /[\p{Script=Arabic}\p{Script=Hebrew}]/u;
const [SURPRISE, SEVERAL, COPIES] = ["scriven-surprise", "scriven-several", "scriven-copies"]; // keys of what the browser keeps
const LONGEST_COMPARED = 200_000; // UTF-16 code units that are compared with the training text

const part = (name) => byId(`write-${name}`);

let app, dials, rules;
let versions = new Versions();
let current = null; // the id of the version shown; null before anything is written
let passages = []; // those of the version, and what the model has written since
let past = []; // ids of the versions shown before
let future = []; // those that were undone
let editing = true;
let writing = null; // the controller of the text that is being generated
let place = null; // of the cursor, in UTF-16 code units of the text
let column = null; // x position on the screen that moving up and down keeps to
let separator = ""; // what ends a document of the model; empty if it knows none
let endedText = null; // the last text that ended by itself
let scored = null; // the text with its surprisals, if they are shown
let scoring = new AbortController();
let copied = null; // `{text, model, from, to}`, the text with its longest copied stretch, if that is shown
let comparing = new AbortController();
let noted = ""; // the note, without what is copied

export function start(theApp) {
  app = theApp;
  dials = makeControls(part("sampling"));
  rules = makeRules(part("sampling"));
  on("write-go", "click", () => (writing ? stop() : go()));
  on("write-copy", "click", async () => note((await copy(textNow())) ? "Copied." : "Your browser does not let this page copy. Save the text instead."));
  on("write-save", "click", () => save(textNow(), `${app.model}.txt`));
  for (const [name, act] of Object.entries({ undo, redo, edit, clear, link: copyLink })) on(`write-${name}`, "click", act);
  on("write-prompt", "input", show);
  part("surprise").checked = load(SURPRISE) ?? true;
  on("write-surprise", "change", onSurprise);
  part("copies").closest("label").hidden = !api.HAS_SERVER;
  part("copies").checked = api.HAS_SERVER && load(COPIES);
  on("write-copies", "change", onCopies);
  on("write-several", "change", () => store(SEVERAL, part("several").checked));
  on("history", "beforetoggle", (event) => event.newState === "open" && listHistory());
  on("history-forget", "click", forgetAll);
  on("write", "keydown", onKey);
  addEventListener("pagehide", keep);
  const text = part("text");
  text.addEventListener("click", onClick);
  text.addEventListener("keydown", onMove);
  text.addEventListener("focus", () => !writing && text.matches(":focus-visible") && moveCursor(place ?? firstWritten()));
  app.onModel(onModel);
  onModel();
  restore();
  prepareStart(app, begin, keepExample);
  show();
}

/** Follows the link in the address, if it is one. */
export function shown() {
  const link = readLink(location.hash);
  if (link) follow(link);
}

async function onModel() {
  const model = app.model;
  separator = "";
  const facts = await api.tokenizerFacts(model).catch(() => ({ separator })); // without them, each text ends where it ends
  if (model !== app.model) return;
  separator = facts.separator;
  part("several").closest("label").hidden = !separator;
  part("several").checked = load(SEVERAL) ?? separator === "\n"; // of a list, one line is little
  show();
}

// --- writing

function begin(text) {
  part("prompt").value = text;
  go();
}

function go() {
  commit();
  writeFrom(textOf(passages) === endedText ? appendText(passages, separator, "model") : passages);
}

const choices = () => ({ ...dials.values(), ...rules.values(), ...(separator && part("several").checked && { ignore_eos: true }) });

const textNow = () => (editing ? part("prompt").value : textOf(passages));

const isYours = (passages) => passages.every((part) => part.by === "you");

async function writeFrom(next, fields = choices()) {
  end();
  const ruled = ruledBefore(next, fields);
  fields = { seed: randomSeed(), ...(ruled && { rule_begun: ruled }), ...fields, model: app.model };
  moveTo(versions.add(next, current, fields));
  passages = next;
  editing = false;
  rules.show(null);
  const controller = (writing = new AbortController());
  show();
  part("text").focus({ preventScroll: true });
  const begun = { at: performance.now(), length: textOf(passages).length };
  try {
    const pieces = api.generate({ ...fields, prompt: textOf(passages) }, controller.signal);
    const outcome = await typeOut(pieces, put, controller.signal);
    if (outcome.ended) endedText = textOf(passages);
    finish(controller, summary(begun, fields.seed, outcome));
  } catch (error) {
    finish(controller, rules.show(error) || errorText(error) || summary(begun, fields.seed, { unknown: [] }));
  }
}

/** How many characters at the end were written under these rules, which then go on there; 0 if they begin. */
function ruledBefore(next, fields) {
  let version = versions.all.get(current);
  while (version && !version.fields) version = versions.all.get(version.parent); // what you typed in between
  const alike = (name) => (version.fields[name] ?? "") === (fields[name] ?? "");
  if (!version || !RULE_NAMES.some((name) => fields[name]) || !RULE_NAMES.every(alike)) return 0;
  const before = textOf(versions.passagesOf(version.id)).slice(0, version.from);
  return Math.max(0, [...textOf(next)].length - [...before].length + (version.fields.rule_begun ?? 0));
}

function put(text) {
  if (!text) return;
  const sheet = part("text").parentElement;
  const atBottom = sheet.scrollHeight - sheet.scrollTop - sheet.clientHeight < 80;
  passages = appendText(passages, text, "model");
  const last = part("text").lastElementChild;
  if (last?.className === "model" && last.firstChild) last.firstChild.appendData(text);
  else part("text").append(inline("model", text));
  if (atBottom) sheet.scrollTop = sheet.scrollHeight;
}

function stop() {
  writing?.abort();
}

/** Ends the writing, and keeps what was written in its version; a version to which nothing was added is none. */
function end() {
  if (!writing) return;
  stop();
  writing = null;
  if (textOf(passages).length > versions.all.get(current).from) return versions.set(current, passages);
  versions.all.delete(current);
  current = past.pop();
  editing = isYours(passages);
}

function finish(controller, words) {
  if (writing !== controller) return; // another text is being generated by now
  end();
  keep();
  show();
  note(words);
}

function summary({ at, length }, seed, { ended, unknown }) {
  const written = [...textOf(passages).slice(length)].length;
  const seconds = (performance.now() - at) / 1000;
  const next = ended ? "The text ended by itself." : "Click a character to replace it.";
  const unseen = unknown.length ? ` The model has never seen ${spellOut(unknown)}.` : "";
  return `${number(written)} characters in ${number(seconds, 1)} s, seed ${seed}. ${next}${unseen}`;
}

/** Shows a note, and after it `more`, which is not kept. */
function note(words, more = "") {
  noted = words;
  part("note").textContent = `${words} ${more}`.trim();
  app.announce(part("note").textContent);
}

// --- versions, undo, edit

/** Goes to a version, which undo comes back from. */
function moveTo(id) {
  past = [...past, current].slice(-UNDO_STEPS);
  future = [];
  current = id;
  place = null;
}

/** Makes what you typed a version. */
function commit() {
  end();
  if (!editing) return;
  const edited = withEditedText(passages, part("prompt").value);
  if (textOf(edited) === textOf(passages)) return;
  moveTo(versions.add(edited, current));
  passages = edited;
}

/** Shows the current version. */
function open() {
  passages = versions.passagesOf(current);
  place = null;
  editing = isYours(passages);
  part("prompt").value = textOf(passages);
  keep();
  show();
}

function undo() {
  commit();
  step(past, future);
}

function redo() {
  commit();
  step(future, past);
}

/** Goes to the last of the versions `from`, and puts the one shown among those `to` go back to. */
function step(from, to) {
  while (from.length && !versions.has(from.at(-1))) from.pop(); // it was forgotten to make room
  if (!from.length) return show();
  to.push(current);
  current = from.pop();
  open();
  note(passages.length ? `${number([...textOf(passages)].length)} characters.` : "");
}

function keepExample(example, fields, where) {
  commit();
  moveTo(versions.add(example, null, fields));
  versions.all.get(current).from = example[0].by === "you" ? example[0].text.length : 0;
  open();
  part("text").focus({ preventScroll: true });
  if (where === null) return;
  moveCursor(where);
  showAlternatives();
}

function edit() {
  end();
  editing = true;
  const prompt = part("prompt");
  prompt.value = textOf(passages);
  show();
  prompt.focus();
  prompt.setSelectionRange(prompt.value.length, prompt.value.length);
}

function clear() {
  commit();
  moveTo(null);
  open();
  note("");
  part("prompt").focus();
}

// --- what the browser keeps

function restore() {
  const saved = loadTexts();
  if (!saved) return;
  versions = new Versions(saved.versions);
  current = versions.has(saved.current) ? saved.current : null;
  passages = versions.passagesOf(current);
  editing = typeof saved.draft === "string" || isYours(passages);
  part("prompt").value = saved.draft ?? textOf(passages);
}

function keep() {
  if (writing) versions.set(current, passages);
  return storeTexts({ current, draft: editing ? part("prompt").value : null, versions: versions.list });
}

function listHistory() {
  if (!writing) commit();
  byId("history-hint").textContent = keep() ? "Your browser keeps these texts; nobody else does." : "Your browser does not keep these texts: they end with this page.";
  const choose = (id) => {
    commit();
    moveTo(id);
    open();
    listHistory();
    byId("history-list").querySelector("[aria-current]")?.focus();
  };
  fillHistory(versions, current, app.models, choose);
}

function forgetAll() {
  commit();
  const left = passages;
  versions = new Versions();
  [past, future, current] = [[], [], null];
  if (left.length) current = versions.add(left, null);
  forgetTexts();
  open();
  listHistory();
}

// --- links

/** Copies a link with which the model writes the same text again. */
async function copyLink() {
  if (!writing) commit();
  const { fields, from } = versions.all.get(current) ?? {};
  const link = linkTo({ ...(fields ?? { ...choices(), model: app.model }), prompt: textOf(passages).slice(0, fields ? from : undefined) });
  if (await copy(link)) return note("The link is copied. It holds the beginning, the seed, the settings and the rules.");
  history.replaceState(null, "", link);
  note("The link is in the address bar, since your browser does not let this page copy.");
}

function follow({ fields, refused }) {
  commit();
  if (app.models.includes(fields.model) && fields.model !== app.model) app.choose(fields.model);
  else if (fields.model && fields.model !== app.model) refused.push(`model=${fields.model}`);
  const { prompt, model, ...values } = fields;
  dials.set(values);
  rules.set(values);
  part("several").checked = Boolean(values.ignore_eos);
  moveTo(versions.add(appendText([], prompt, "you"), null));
  open();
  writeFrom(passages, values).then(() => refused.length && note(`This page could not use a part of the link: ${refused.join(", ")}.`));
}

// --- showing

function show() {
  const text = part("text");
  part("prompt").hidden = !editing;
  text.hidden = editing;
  text.replaceChildren(...spans());
  text.classList.toggle("busy", Boolean(writing));
  text.ariaBusy = Boolean(writing);
  const [name, key] = writing ? ["Stop", "Esc"] : [passages.length && !editing ? "Continue" : "Write", START_KEY];
  part("go").firstElementChild.textContent = name;
  part("go").lastElementChild.textContent = key;
  showButtons();
  showStart(editing && !passages.length && !part("prompt").value);
  fit();
  scoreShown();
  compareShown();
}

/** Shows the buttons that can do something now. */
function showButtons() {
  part("undo").hidden = !past.length;
  part("redo").hidden = !future.length;
  part("edit").hidden = editing;
  part("history").hidden = !versions.all.size;
  for (const name of ["clear", "copy", "save", "link"]) part(name).hidden = !textNow();
}

function* spans() {
  const coloured = part("surprise").checked && scored && textOf(passages).startsWith(scored.text) ? scored.done : 0;
  const stretch = part("copies").checked && copied?.text === textOf(passages) ? copied : { from: 0, to: 0 };
  const colour = (by, unit) => (by === "model" && unit < coloured ? `model s${levelOf(scored.bitsAt(unit))}` : by);
  const kindOf = (by, unit) => `${colour(by, unit)}${unit >= stretch.from && unit < stretch.to ? " copied" : ""}`;
  let start = 0;
  for (const { text, by } of passages) {
    for (let from = 0, to; from < text.length; from = to) {
      const [here, kind] = [start + from === place, kindOf(by, start + from)];
      to = nextCharacter(text, from);
      while (!here && to < text.length && start + to !== place && kindOf(by, start + to) === kind) to = nextCharacter(text, to);
      yield make(here ? "mark" : "span", { className: kind, id: here ? "write-here" : "" }, text.slice(from, to));
    }
    start += text.length;
  }
}

/** Asks how surprising the text shown is, if that is to be seen and not known. */
async function scoreShown() {
  const [text, model] = [textOf(passages), app.model];
  if (writing || editing || !text || !part("surprise").checked) return;
  if (scored?.text === text && scored.model === model) return;
  scoring.abort();
  const { signal } = (scoring = new AbortController());
  try {
    const found = await scoreText(model, text, signal);
    if (signal.aborted) return;
    scored = Object.assign(found, { model });
    if (!writing) show();
  } catch (error) {
    if (!signal.aborted) note(errorText(error));
  }
}

/** Asks what of the text shown is copied, without the start that you typed, if that is to be seen and not known. */
async function compareShown() {
  const [text, model] = [textOf(passages), app.model];
  if (writing || editing || !text || !part("copies").checked) return;
  if (copied?.text === text && copied.model === model) return;
  comparing.abort();
  const { signal } = (comparing = new AbortController());
  copied = { text, model, from: 0, to: 0 };
  try {
    const start = firstWritten();
    const found = await api.novelty(model, text.slice(start, startOfCharacter(text, start + LONGEST_COMPARED)), signal);
    if (signal.aborted) return;
    const stretch = found.stretches[0]?.text ?? "";
    const from = stretch ? text.indexOf(stretch, start) : -1; // -1 where the model reads another case, for example
    copied = { text, model, from: Math.max(0, from), to: from < 0 ? 0 : from + stretch.length };
    if (writing) return;
    show();
    note(noted, describeCopies(found));
  } catch (error) {
    if (!signal.aborted) note(noted, errorText(error));
  }
}

function describeCopies({ longest, stretches, novel }) {
  if (!longest) return "Nothing of it is in the training text.";
  const share = "20" in novel ? ` ${percent(novel[20])} of its stretches of 20 characters are new.` : "";
  return `At most ${number(longest)} characters in a row are copied, as in ${stretches[0].source}.${share}`;
}

function onCopies() {
  store(COPIES, part("copies").checked);
  comparing.abort();
  copied = null;
  part("note").textContent = noted;
  show();
}

function onSurprise() {
  store(SURPRISE, part("surprise").checked);
  show();
}

function fit() {
  const prompt = part("prompt");
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

// --- the cursor and the alternatives

function firstWritten() {
  let start = 0;
  for (const { text, by } of passages) {
    if (by === "model") return start;
    start += text.length;
  }
  return 0;
}

function moveCursor(where) {
  const text = textOf(passages);
  if (!text) return;
  place = startOfCharacter(text, Math.max(0, Math.min(where, text.length - 1)));
  show();
  part("here").scrollIntoView({ block: "nearest" });
}

function onClick(event) {
  if (writing || String(getSelection())) return;
  const where = unitAt(part("text"), event.clientX, event.clientY);
  if (where === null) return;
  moveCursor(where);
  showAlternatives();
}

/** The place one line of the screen above or below the cursor. */
function vertical(direction) {
  const box = part("here").getClientRects()[0];
  column ??= box.left + box.width / 2;
  for (let step = 1; step <= 3; step++) {
    const found = unitAt(part("text"), column, box.top + box.height / 2 + direction * step * box.height * 1.3);
    if (found !== null && found !== place) return found;
  }
  return place;
}

/** The next place on one side: what is next in a text from right to left is on the left. */
function sideways(text, move, other) {
  return (RIGHT_TO_LEFT.test(text.slice(place, nextCharacter(text, place))) ? other : move)(text, place);
}

const moves = {
  ArrowRight: (text) => sideways(text, nextCharacter, previousCharacter),
  ArrowLeft: (text) => sideways(text, previousCharacter, nextCharacter),
  ArrowDown: () => vertical(1),
  ArrowUp: () => vertical(-1),
  Home: () => 0,
  End: (text) => text.length - 1,
};

function onMove(event) {
  if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
  const opens = event.key === "Enter" || event.key === " ";
  if (!opens && !(event.key in moves)) return;
  event.preventDefault();
  if (!/^Arrow(Up|Down)$/.test(event.key)) column = null;
  if (place === null) moveCursor(firstWritten());
  else if (!opens) moveCursor(moves[event.key](textOf(passages)));
  if (opens) showAlternatives();
  else app.announce(nameCharacter(part("here").textContent));
}

function showAlternatives() {
  const text = textOf(passages);
  const here = { place, before: text.slice(0, place), character: text.slice(place, nextCharacter(text, place)) };
  openAlternatives(part("here"), here, app, (character) => branch(here, character), () => part("text").focus());
}

function branch({ place: where, character }, other) {
  if (other === character) return;
  writeFrom(appendText(firstUnits(passages, where), other, "you"));
}

function onKey(event) {
  const withControl = event.ctrlKey || event.metaKey;
  if (withControl && event.key === "Enter") {
    event.preventDefault();
    if (!writing) go();
  } else if (event.key === "Escape" && writing) stop();
  else if (withControl && event.key.toLowerCase() === "z" && event.target !== part("prompt")) {
    event.preventDefault();
    if (event.shiftKey) redo();
    else undo();
  }
}
