/** Watch: the loss curves of a run, also while it is being trained, and the samples that the model wrote. */

import * as api from "./api.js";
import { byId, errorText, make, number, percent } from "./elements.js";
import { plot } from "./plot.js";

const RETRY = 3000; // milliseconds until a lost connection is tried again

let app;
let following = null; // the controller of the stream of events
let run = null;
let scales; // of the picture of the curves
let pinned = false; // whether the slider stays in place when a new sample arrives

export function start(theApp) {
  app = theApp;
  app.onModel(() => following && follow());
  byId("watch-when").addEventListener("input", onSlider);
  byId("watch-plot").addEventListener("click", onPlotClick);
  new ResizeObserver(() => run && draw()).observe(byId("watch-plot"));
}

export function shown() {
  if (!following) follow();
}

async function follow() {
  following?.abort();
  const { signal } = (following = new AbortController());
  const name = app.model;
  pinned = false;
  while (!signal.aborted && name) {
    try {
      for await (const update of api.followRun(name, signal)) addUpdate(update, name);
    } catch (error) {
      if (signal.aborted) return;
      byId("watch-state").textContent = errorText(error);
      if (error.status) return; // the server refused the request, and would again
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }
}

function addUpdate(update, name) {
  if (update.again || !run || run.name !== name) run = { name, steps: [], evaluations: [], samples: [], facts: {} };
  for (const kind of ["steps", "evaluations", "samples"]) run[kind].push(...(update[kind] ?? []));
  Object.assign(run.facts, update.facts);
  run.training = update.training ?? run.training;
  showFacts();
  updateSlider();
  draw();
}

function draw() {
  const training = run.steps.map((each) => [each.step, bits(each)]);
  const validation = run.evaluations.filter((each) => !each.final).map((each) => [each.step, bits(each)]);
  scales = plot(byId("watch-plot"), { training, validation, at: sampleSteps()[Number(byId("watch-when").value)] });
}

/** Shows the samples that were written nearest to the step clicked on. */
function onPlotClick(event) {
  const steps = sampleSteps();
  if (!scales || !steps.length) return;
  const step = scales.stepAt(event.clientX - byId("watch-plot").getBoundingClientRect().left);
  const distances = steps.map((each) => Math.abs(each - step));
  byId("watch-when").value = String(distances.indexOf(Math.min(...distances)));
  onSlider();
}

function onSlider() {
  pinned = byId("watch-when").value !== byId("watch-when").max;
  showSamples();
  draw();
}

const bits = ({ nats, characters }) => nats / characters / Math.LN2;

function showFacts() {
  const { evaluations, steps, facts: known, training } = run;
  byId("watch-name").textContent = run.name;
  byId("watch-state").textContent = training ? "Training now" : known.finished ? "Finished" : steps.length ? "Not training" : "Not trained yet";
  byId("watch-state").classList.toggle("live", Boolean(training));
  const best = evaluations.reduce((low, each) => (!low || bits(each) < bits(low) ? each : low), null);
  const last = steps.at(-1);
  const rows = [
    ["Best so far", best && `${number(bits(best), 3)} bits per character`],
    ["Model", known.started && `${known.started.name}, ${number(known.started.parameters)} parameters`],
    ["Training text", known.started && `${number(known.started.training_characters)} characters`],
    ["Read so far", last && `${number(last.read)} characters in ${duration(last.seconds)}`],
    ["Progress", last && training && percent(last.progress)],
  ];
  const shown = rows.filter(([, value]) => value);
  byId("watch-facts").replaceChildren(make("dl", {}, ...shown.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)])));
}

function duration(seconds) {
  if (seconds < 120) return `${number(seconds)} s`;
  return seconds < 7200 ? `${number(seconds / 60)} min` : `${number(seconds / 3600, 1)} h`;
}

// --- samples

function sampleSteps() {
  return [...new Set(run.samples.map((each) => each.step))].sort((a, b) => a - b);
}

function updateSlider() {
  const when = byId("watch-when");
  const last = Math.max(0, sampleSteps().length - 1);
  const place = pinned ? Math.min(Number(when.value), last) : last;
  when.max = String(last);
  when.value = String(place);
  when.disabled = !last;
  showSamples();
}

function showSamples() {
  const step = sampleSteps()[Number(byId("watch-when").value)];
  byId("watch-step").textContent = step === undefined ? "–" : number(step);
  byId("watch-when").setAttribute("aria-valuetext", step === undefined ? "none" : `after step ${step}`);
  const shown = run.samples.filter((each) => each.step === step).map(sampleFigure);
  byId("watch-samples").replaceChildren(...(shown.length ? shown : [make("p", { className: "hint" }, "No samples yet.")]));
}

function sampleFigure({ prompt, text, temperature, seed }) {
  const words = make("blockquote", { className: "prose" }, make("span", { className: "you" }, prompt), text);
  const settings = make("figcaption", { className: "hint" }, `temperature ${temperature}, seed ${seed}`);
  return make("figure", {}, words, settings);
}
