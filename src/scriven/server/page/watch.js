/** Watch: how a run's loss fell, while it does, and what the model wrote on the way. */

import * as api from "./api.js";
import { byId, make, number, percent, told } from "./parts.js";
import { plot } from "./plot.js";

const AGAIN = 3000; // milliseconds until a lost connection is tried again

let app;
let following = null; // the controller of the story that is being told
let run = null;
let frame; // of the picture of the curves
let pinned = false; // whether the slider stays where it is when a new sample comes

export function start(theApp) {
  app = theApp;
  app.onModel(() => following && follow());
  byId("watch-when").addEventListener("input", chosen);
  byId("watch-plot").addEventListener("click", pointed);
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
      for await (const news of api.story(name, signal)) take(news, name);
    } catch (error) {
      if (signal.aborted) return;
      byId("watch-state").textContent = told(error);
      if (error.status) return; // it was refused, and will be again
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }
}

function take(news, name) {
  if (news.again || !run || run.name !== name) run = { name, steps: [], evaluations: [], samples: [], facts: {} };
  for (const kind of ["steps", "evaluations", "samples"]) run[kind].push(...(news[kind] ?? []));
  Object.assign(run.facts, news.facts);
  run.training = news.training ?? run.training;
  facts();
  slider();
  draw();
}

function draw() {
  const training = run.steps.map((each) => [each.step, bits(each)]);
  const validation = run.evaluations.filter((each) => !each.final).map((each) => [each.step, bits(each)]);
  frame = plot(byId("watch-plot"), { training, validation, at: moments()[Number(byId("watch-when").value)] });
}

/** A click on the curves shows what was written about then. */
function pointed(event) {
  const found = moments();
  if (!frame || !found.length) return;
  const step = frame.stepAt(event.clientX - byId("watch-plot").getBoundingClientRect().left);
  const far = found.map((each) => Math.abs(each - step));
  byId("watch-when").value = String(far.indexOf(Math.min(...far)));
  chosen();
}

function chosen() {
  pinned = byId("watch-when").value !== byId("watch-when").max;
  samples();
  draw();
}

const bits = ({ nats, characters }) => nats / characters / Math.LN2;

function facts() {
  const { evaluations, steps, facts: known, training } = run;
  byId("watch-name").textContent = run.name;
  byId("watch-state").textContent = training ? "Training now" : known.finished ? "Finished" : steps.length ? "Not training" : "Nothing was trained yet";
  byId("watch-state").classList.toggle("live", Boolean(training));
  const best = evaluations.reduce((low, each) => (!low || bits(each) < bits(low) ? each : low), null);
  const last = steps.at(-1);
  const rows = [
    ["Best so far", best && `${number(bits(best), 3)} bits per character`],
    ["Model", known.started && `${known.started.name}, ${number(known.started.parameters)} values`],
    ["Learns from", known.started && `${number(known.started.training_characters)} characters`],
    ["Has read", last && `${number(last.read)} characters in ${duration(last.seconds)}`],
    ["Done", last && training && percent(last.progress)],
  ];
  const shown = rows.filter(([, value]) => value);
  byId("watch-facts").replaceChildren(make("dl", {}, ...shown.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)])));
}

function duration(seconds) {
  if (seconds < 120) return `${number(seconds)} s`;
  return seconds < 7200 ? `${number(seconds / 60)} min` : `${number(seconds / 3600, 1)} h`;
}

// --- samples

function moments() {
  return [...new Set(run.samples.map((each) => each.step))].sort((a, b) => a - b);
}

function slider() {
  const when = byId("watch-when");
  const last = Math.max(0, moments().length - 1);
  const place = pinned ? Math.min(Number(when.value), last) : last;
  when.max = String(last);
  when.value = String(place);
  when.disabled = !last;
  samples();
}

function samples() {
  const step = moments()[Number(byId("watch-when").value)];
  byId("watch-step").textContent = step === undefined ? "–" : number(step);
  byId("watch-when").setAttribute("aria-valuetext", step === undefined ? "none" : `after step ${step}`);
  const shown = run.samples.filter((each) => each.step === step).map(sample);
  byId("watch-samples").replaceChildren(...(shown.length ? shown : [make("p", { className: "hint" }, "It has written nothing yet.")]));
}

function sample({ prompt, text, temperature, seed }) {
  const words = make("blockquote", { className: "prose" }, make("span", { className: "you" }, prompt), text);
  const settings = make("figcaption", { className: "hint" }, `temperature ${temperature}, seed ${seed}`);
  return make("figure", {}, words, settings);
}
