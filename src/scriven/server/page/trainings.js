/** Starts, stops and goes on with trainings, which run as processes of the server. */

import * as api from "./api.js";
import { byId, errorText, hide, on, option, say } from "./elements.js";
import { openText } from "./text_checks.js";

const part = (name) => byId(`train-${name}`);
const note = (words) => say("train-note", words);

let app, changed;
let known = { refusal: "", texts: [], trainings: [] };
let shown = null; // the run that is watched
let resumed = ""; // the run that the form is about; empty for a new one
let opening = null; // the controller of the file that is being opened

const LONGEST = 4e6; // bytes of a text as JSON: those of a request, less some for its other fields

/** `onChange(name)` is called after the training of this name has started. */
export function start(theApp, onChange) {
  app = theApp;
  changed = onChange;
  const first = () => open("");
  const acts = { first, new: first, write, more: () => open(shown.name), stop, cancel: () => part("dialog").close(), open: () => part("choose").click() };
  for (const [name, act] of Object.entries(acts)) on(`train-${name}`, "click", act);
  on("train-choose", "change", (event) => openFile(event.target.files[0]));
  on("train-form", "dragover", (event) => event.preventDefault());
  on("train-form", "drop", onDrop);
  on("train-file", "change", onChoice);
  on("train-dialog", "close", () => stopOpening());
  on("train-form", "submit", onSubmit);
}

/** Asks the server for its trainings. A model that a training has made meanwhile can be chosen from then on. */
export async function look() {
  known = await api.trainings();
  if (app.models.length && !known.trainings.length) return;
  for (const name of app.offer(await api.modelNames())) app.announce(`${name} can write now.`);
}

function write() {
  app.choose(shown.name);
  byId("tab-write").click();
}

/** What this server's training of a run does, as `{words, running}`; undefined if it has trained none of this name. */
export function stateOf(name) {
  const found = known.trainings.find((each) => each.name === name);
  if (!found || found.state === "ended") return undefined;
  if (found.state === "failed") return { words: `Failed: ${found.error}`, running: false };
  return { words: found.state === "stopping" ? "Stopping, and saving …" : "Training now", running: true };
}

/** Shows the buttons that can do something for this run; `first` says that there is none yet. */
export function show(run, first) {
  shown = run;
  const state = run && stateOf(run.name);
  const failed = known.trainings.findLast((each) => each.state === "failed" && each.name !== run?.name);
  hide("train-new", first || known.refusal || known.trainings.some((each) => stateOf(each.name)?.running));
  hide("train-stop", !state?.running);
  part("stop").disabled = state?.words !== "Training now";
  hide("train-more", part("new").hidden || !run?.steps.length || Boolean(run.training));
  hide("train-write", !app.models.includes(run?.name));
  hide("train-bar", first ? !failed : known.refusal && part("write").hidden);
  say("train-says", failed ? `${failed.name} failed: ${failed.error}` : "");
}

function open(name) {
  resumed = name;
  say("train-title", name ? `Train ${name} further` : "Train a model");
  hide("train-about", name);
  const files = known.texts.map(option);
  part("file").replaceChildren(new Option("Paste or open a text", ""), ...files);
  part("file").parentElement.hidden = !files.length;
  onChoice();
  part("dialog").showModal();
}

function onChoice() {
  stopOpening();
  const file = part("file").value;
  hide("train-pasted", file);
  if (file) suggest(file);
}

function onDrop(event) {
  const [file] = event.dataTransfer.files;
  if (!file) return; // dropped words go where they fall
  event.preventDefault();
  if (!resumed) openFile(file);
}

async function openFile(file) {
  if (!file) return;
  stopOpening();
  const { signal } = (opening = new AbortController());
  part("choose").value = "";
  part("go").disabled = true;
  note(`Opening ${file.name} …`);
  try {
    const text = checked(await openText(file, signal));
    signal.throwIfAborted();
    part("text").value = text;
    part("file").value = "";
    onChoice();
    suggest(file.name);
  } catch (error) {
    if (!signal.aborted) stopOpening(errorText(error));
  }
}

/** Forgets the file that is being opened, if there is one. */
function stopOpening(words = "") {
  opening?.abort();
  part("go").disabled = false;
  note(words);
}

/** The text, if it is not too long to be sent. */
function checked(text) {
  if (new Blob([JSON.stringify(text)]).size < LONGEST) return text;
  throw new Error("The page can send no text of over 4 MB. Put the file into the folder that --texts names, or train in the terminal.");
}

/** Suggests a name after that of a file. */
function suggest(file) {
  part("name").value = file.replace(/\..*$/, "").replaceAll(/[^\p{L}\p{N}_-]+/gu, "-").slice(0, 60);
}

async function onSubmit(event) {
  event.preventDefault();
  const minutes = Number(part("minutes").value);
  const file = part("file").value;
  const documents = part("lines").checked ? "lines" : "none";
  note("Starting …");
  try {
    const source = () => (file ? { file } : { text: checked(part("text").value) });
    const fields = resumed ? { name: resumed, resume: true, minutes } : { name: part("name").value, ...source(), documents, minutes };
    await api.startTraining(fields);
    part("dialog").close();
    part("text").value = "";
    changed(fields.name);
  } catch (error) {
    note(errorText(error));
  }
}

async function stop() {
  part("stop").disabled = true;
  try {
    await api.stopTraining(shown.name);
  } catch (error) {
    say("train-says", errorText(error));
  }
  changed();
}
