/** Watch: the losses of runs over one another, also while one is being trained, and the samples that the models wrote. */

import * as api from "./api.js";
import { byId, errorText, hide, inline, make, number, on, option, percent, say } from "./elements.js";
import { nearest, plot } from "./plot.js";
import { symbolOf } from "./scored_text.js";
import * as trainings from "./trainings.js";

const RETRY = 3000; // milliseconds until a lost connection is tried again, and between two looks at other runs
const MOST_OTHERS = 4; // runs drawn over the first one
const UNITS = ["steps", "minutes", "epochs"];

const part = (name) => byId(`watch-${name}`);
const when = part("when");
let app;
let following = null; // the controller of the stream of events
let run = null; // the one whose facts and samples are shown
let others = []; // those that are drawn over it, in the order of their colours
let listed = []; // all runs, as the server lists them
let scales; // of the picture of the curves
let pinned = false; // whether the slider stays in place when a new sample arrives
let pointed; // the place on the x axis that the values are told of

export function start(theApp) {
  app = theApp;
  trainings.start(app, look);
  part("unit").replaceChildren(...UNITS.map(option));
  on("watch-unit", "change", () => draw());
  on("watch-run", "change", onRun);
  on("watch-others", "click", (event) => onOther(event.target.closest("button")));
  on("watch-when", "input", onSlider);
  on("watch-plot", "click", onPlotClick);
  on("watch-plot", "pointermove", (event) => scales && point(valueUnder(event)));
  on("watch-plot", "pointerleave", () => point(undefined));
  on("watch-plot", "keydown", onPlotKey);
  new ResizeObserver(() => run && draw()).observe(part("plot"));
  setInterval(() => !byId("watch").hidden && look(), RETRY);
}

export async function shown() {
  await look();
  const { name } = listed.find((each) => each.name === app.model) ?? listed[0] ?? {};
  if (!following) follow(listed.find((each) => each.training)?.name ?? name);
  else if (run && app.models.includes(run.name) && name !== run.name) follow(name);
}

/** Asks which runs there are, and for news of those that are drawn over the first one. Follows `name`, if it is new. */
async function look(name = "") {
  const before = listed.length;
  try {
    listed = await api.runs();
    await trainings.look();
  } catch (error) {
    say("watch-state", errorText(error));
    return;
  }
  const names = listed.map((each) => each.name);
  const select = part("run");
  if (names.join("\n") !== [...select.options].map((each) => each.value).join("\n")) {
    select.replaceChildren(...names.map(option));
    select.value = run?.name ?? "";
  }
  others = others.filter((each) => names.includes(each.name));
  if (names.includes(name)) follow(name);
  else if (run ? !names.includes(run.name) : following && !before) follow(names[0]); // a training that came to nothing, or is the first
  for (const other of others) if (listed.find((each) => each.name === other.name).training) await update(other);
  showOthers();
  showState();
}

async function follow(name) {
  following?.abort();
  const { signal } = (following = new AbortController());
  if (!name) run = null;
  if (!name) return showState();
  part("run").value = name;
  others = others.filter((each) => each.name !== name);
  pinned = false;
  while (!signal.aborted) {
    try {
      for await (const news of api.followRun(name, signal)) addUpdate(news, name);
    } catch (error) {
      if (signal.aborted) return;
      say("watch-state", errorText(error));
      if (error.status) return; // the server refused the request, and would again
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }
}

const emptyRun = (name) => ({ name, steps: [], evaluations: [], samples: [], facts: {} });

function addUpdate(news, name) {
  if (news.again || !run || run.name !== name) run = emptyRun(name);
  for (const kind of ["steps", "evaluations", "samples"]) run[kind].push(...(news[kind] ?? []));
  Object.assign(run.facts, news.facts);
  run.training = news.training ?? run.training;
  showState();
  showOthers();
  updateSlider();
  draw();
}

// --- several runs

/** Shows another run, and makes its model the one to write with, if it has one. */
function onRun() {
  const name = part("run").value;
  if (app.models.includes(name)) app.choose(name);
  follow(name);
}

async function onOther(button) {
  if (!button) return;
  const here = others.findIndex((each) => each.name === button.value);
  if (here >= 0) others.splice(here, 1);
  else if (others.length < MOST_OTHERS) {
    const other = emptyRun(button.value);
    others.push(other);
    await update(other);
  }
  showOthers();
  draw();
}

async function update(other) {
  try {
    Object.assign(other, await api.runMetrics(other.name));
    draw();
  } catch (error) {
    say("watch-state", errorText(error));
  }
}

/** One button for each other run; those drawn have the colour of their curve. */
function showOthers() {
  const focused = document.activeElement?.value;
  const names = listed.map((each) => each.name).filter((name) => name !== run?.name);
  const buttons = names.map((name) => {
    const place = others.findIndex((each) => each.name === name);
    return make("button", { value: name, className: place < 0 ? "" : `name${place + 1}`, disabled: place < 0 && others.length >= MOST_OTHERS, ariaPressed: String(place >= 0) }, name);
  });
  part("others").replaceChildren(...buttons);
  hide("watch-others", !buttons.length);
  buttons.find((each) => each.value === focused)?.focus();
}

// --- the picture

/** What the losses of these runs are counted by: "symbol" if not all by the same, or there are none. */
function symbolOfAll(runs) {
  const found = new Set(runs.map(({ facts }) => symbolOf(facts.started?.unit)));
  return found.size === 1 ? [...found][0] : "symbol";
}

const bits = ({ nats, characters }) => nats / characters / Math.LN2;

/** The curves of a run: points `{x, bits, step}`, with x in the chosen unit. */
function curvesOf({ name, steps, evaluations, facts }) {
  const unit = part("unit").value;
  const whole = facts.started?.training_characters || Infinity;
  const x = { steps: ({ step }) => step, minutes: ({ seconds }) => seconds / 60, epochs: ({ read }) => read / whole }[unit];
  const points = (records, place) =>
    records.map((each) => ({ x: place(each), bits: bits(each), step: each.step })).filter((each) => Number.isFinite(each.x + each.bits));
  const training = points(steps, x);
  let at = 0; // both are in order
  const validation = points(evaluations.filter((each) => !each.final), ({ step }) => {
    while (at + 1 < training.length && training[at].step < step) at++;
    return unit === "steps" ? step : (training[at]?.x ?? 0);
  });
  return { name, training, validation, alone: facts.started?.counts ? " of the network alone" : "" };
}

function draw() {
  const shown = [run, ...others].filter(Boolean);
  const curves = shown.map(curvesOf);
  const step = sampleSteps()[Number(when.value)];
  const at = curves[0]?.validation.find((each) => each.step === step)?.x;
  scales = plot(part("plot"), { runs: curves, unit: part("unit").value, symbol: symbolOfAll(shown), at });
  point(pointed);
}

/** Tells the values at a place on the x axis; undefined for none. */
function point(x) {
  pointed = x;
  const mark = part("plot").querySelector(".pointer");
  const found = x === undefined || !scales ? [] : scales.curves.filter(({ training, validation }) => training.length || validation.length);
  mark?.setAttribute("visibility", found.length ? "visible" : "hidden");
  if (!found.length) return part("values").replaceChildren();
  const first = nearest(found[0].training.length ? found[0].training : found[0].validation, x);
  for (const name of ["x1", "x2"]) mark.setAttribute(name, scales.x(first.x));
  const reached = found.filter(({ training, validation }) => Math.max(training.at(-1)?.x ?? 0, validation.at(-1)?.x ?? 0) >= first.x);
  const words = reached.map((each) => inline(`name${scales.curves.indexOf(each)}`, valuesOf(each, first.x)));
  part("values").replaceChildren(make("span", {}, placeOf(first)), ...words);
}

function placeOf({ x, step }) {
  const unit = part("unit").value;
  return unit === "steps" ? `Step ${number(step)}` : `${number(x, 2)} ${unit}, step ${number(step)}`;
}

function valuesOf({ name, training, validation, alone }, x) {
  const near = nearest(training, x);
  const told = nearest(validation, x);
  const parts = [near && `${number(near.bits, 3)} training`, told && `${number(told.bits, 3)} validation${alone} at step ${number(told.step)}`];
  return `${others.length ? `${name} ` : ""}${parts.filter(Boolean).join(", ")}`;
}

function onPlotKey(event) {
  const points = scales?.curves[0]?.validation ?? [];
  const direction = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!direction || !points.length) return;
  event.preventDefault();
  const here = pointed === undefined ? -1 : points.indexOf(nearest(points, pointed));
  point(points[Math.max(0, Math.min(points.length - 1, here + direction))].x);
  app.announce(part("values").textContent);
}

const valueUnder = (event) => scales.valueAt(event.clientX - part("plot").getBoundingClientRect().left);

/** Shows the samples that were written nearest to the step clicked on. */
function onPlotClick(event) {
  const steps = sampleSteps();
  if (!scales || !steps.length) return;
  const { training, validation } = scales.curves[0];
  const step = nearest([...validation, ...training], valueUnder(event))?.step ?? 0;
  const distances = steps.map((each) => Math.abs(each - step));
  when.value = String(distances.indexOf(Math.min(...distances)));
  onSlider();
}

function onSlider() {
  pinned = when.value !== when.max;
  showSamples();
  draw();
}

// --- facts

function showState() {
  const own = run && trainings.stateOf(run.name);
  say("watch-state", own?.words ?? stateOf(run));
  part("state").classList.toggle("live", Boolean(run?.training || own?.running));
  const first = !listed.length;
  hide("watch-first", !first);
  hide("watch-chart", first);
  hide("watch-about", first);
  trainings.show(run, first);
  showFacts();
}

function stateOf(run) {
  if (!run) return "";
  if (run.training) return "Training now";
  if (run.facts.finished) return run.facts.finished.reason === "interrupted" ? "Stopped, and saved" : "Finished";
  return run.steps.length ? "Not training" : "Not trained yet";
}

function showFacts() {
  if (!run) return part("facts").replaceChildren();
  const { evaluations, steps, facts: known, training } = run;
  const best = evaluations.reduce((low, each) => (!low || bits(each) < bits(low) ? each : low), null);
  const last = steps.findLast((each) => Number.isFinite(each.read) && Number.isFinite(each.seconds));
  const kept = known.finished?.characters && "network_alone" in known.finished ? known.finished : null;
  const symbol = symbolOf(known.started?.unit);
  const alone = (yes) => (yes ? ", by the network alone" : "");
  const rows = [
    kept
      ? ["On unseen text", `${number(bits(kept), 3)} bits per ${symbol}${alone(kept.network_alone)}`]
      : ["Best so far", best && `${number(bits(best), 3)} bits per ${symbol}${alone(known.started?.counts)}`],
    ["Model", known.started && `${known.started.name}, ${number(known.started.parameters)} parameters`],
    ["Training text", known.started && `${number(known.started.training_characters)} ${symbol}s`],
    ["Read so far", last && `${number(last.read)} ${symbol}s in ${duration(last.seconds)}`],
    ["Progress", last && training && percent(last.progress)],
  ];
  const shown = rows.filter(([, value]) => value);
  part("facts").replaceChildren(make("dl", {}, ...shown.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)])));
}

function duration(seconds) {
  if (seconds < 120) return `${number(seconds)} s`;
  return seconds < 7200 ? `${number(seconds / 60)} min` : `${number(seconds / 3600, 1)} h`;
}

// --- samples

function sampleSteps() {
  return run ? [...new Set(run.samples.map((each) => each.step))].sort((a, b) => a - b) : [];
}

function updateSlider() {
  const last = Math.max(0, sampleSteps().length - 1);
  const place = pinned ? Math.min(Number(when.value), last) : last;
  when.max = String(last);
  when.value = String(place);
  when.disabled = !last;
  showSamples();
}

function showSamples() {
  const step = sampleSteps()[Number(when.value)];
  say("watch-step", step === undefined ? "–" : number(step));
  when.ariaValueText = step === undefined ? "none" : `after step ${step}`;
  const shown = run.samples.filter((each) => each.step === step).map(sampleFigure);
  part("samples").replaceChildren(...(shown.length ? shown : [make("p", { className: "hint" }, "No samples yet.")]));
}

function sampleFigure({ prompt, text, temperature, seed }) {
  const words = make("blockquote", { className: "prose" }, inline("you", prompt), text);
  const settings = make("figcaption", { className: "hint" }, `temperature ${temperature}, seed ${seed}`);
  return make("figure", {}, words, settings);
}
