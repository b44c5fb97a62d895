/** Starts, stops and goes on with trainings, which run as processes of the server. */

import * as api from "./api.js";
import { byId, errorText, hide, on, option, say } from "./elements.js";
import { openText } from "./text_checks.js";

let app, changed;
let known = { refusal: "", texts: [], trainings: [] };
let shown = null; // the run that is watched
let resumed = ""; // the run that the form is about; "" for a new one

/** `onChange(name)` is called after the training of this name has started. */
export function start(theApp, onChange) {
  app = theApp;
  changed = onChange;
  for (const id of ["train-new", "train-first"]) on(id, "click", () => open(""));
  on("train-write", "click", write);
  on("train-more", "click", () => open(shown.name));
  on("train-stop", "click", stop);
  on("train-cancel", "click", () => byId("train-dialog").close());
  on("train-open", "click", () => byId("train-choose").click());
  on("train-choose", "change", (event) => openFile(event.target.files[0]));
  on("train-form", "dragover", (event) => event.preventDefault());
  on("train-form", "drop", onDrop);
  on("train-file", "change", onChoice);
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
  const failed = known.trainings.filter((each) => each.state === "failed" && each.name !== run?.name).at(-1);
  hide("train-bar", first ? !failed : known.refusal);
  hide("train-new", first || known.trainings.some((each) => ["training", "stopping"].includes(each.state)));
  hide("train-stop", !state?.running);
  byId("train-stop").disabled = state?.words !== "Training now";
  hide("train-more", byId("train-new").hidden || !run?.steps.length || Boolean(run.training));
  hide("train-write", !app.models.includes(run?.name));
  say("train-says", failed ? `${failed.name} failed: ${failed.error}` : "");
}

function open(name) {
  resumed = name;
  say("train-title", name ? `Train ${name} further` : "Train a model");
  hide("train-about", name);
  say("train-note", "");
  const files = known.texts.map(option);
  byId("train-file").replaceChildren(new Option("Paste or open a text", ""), ...files);
  byId("train-file").parentElement.hidden = !files.length;
  onChoice();
  byId("train-dialog").showModal();
}

function onChoice() {
  const file = byId("train-file").value;
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
  say("train-note", `Opening ${file.name} …`);
  try {
    byId("train-text").value = await openText(file);
    byId("train-file").value = "";
    onChoice();
    suggest(file.name);
    say("train-note", "");
  } catch (error) {
    say("train-note", errorText(error));
  }
  byId("train-choose").value = "";
}

/** Suggests a name after that of a file. */
function suggest(file) {
  byId("train-name").value = file.replace(/\..*$/, "").replaceAll(/[^\p{L}\p{N}_-]+/gu, "-").slice(0, 60);
}

async function onSubmit(event) {
  event.preventDefault();
  const minutes = Number(byId("train-minutes").value);
  const file = byId("train-file").value;
  const source = file ? { file } : { text: byId("train-text").value };
  const documents = byId("train-lines").checked ? "lines" : "none";
  const fields = resumed ? { name: resumed, resume: true, minutes } : { name: byId("train-name").value, ...source, documents, minutes };
  say("train-note", "Starting …");
  try {
    await api.startTraining(fields);
    byId("train-dialog").close();
    byId("train-text").value = "";
    changed(fields.name);
  } catch (error) {
    say("train-note", errorText(error));
  }
}

async function stop() {
  byId("train-stop").disabled = true;
  try {
    await api.stopTraining(shown.name);
  } catch (error) {
    say("train-says", errorText(error));
  }
  changed();
}
