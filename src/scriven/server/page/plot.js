/** Draws two loss curves: a thin line for training, a thick one with dots for validation. */

import { number } from "./elements.js";

const SPACE = "http://www.w3.org/2000/svg";
const MARGIN = { top: 34, right: 92, bottom: 40, left: 52 };
const SMALL = 520; // pixels of width below which the curves' names do not fit

function draw(name, attributes, words) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (words !== undefined) made.textContent = words;
  return made;
}

/** About `count` round values between two bounds. */
export function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

/** The range of losses to show. It leaves out the first steps, whose losses are far above all others. */
export function bounds(training, validation) {
  const later = training.slice(Math.floor(training.length / 40));
  const values = [...later, ...validation].map(([, value]) => value).filter(Number.isFinite);
  if (!values.length) return [0, 1];
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const margin = (high - low || 1) * 0.06;
  return [Math.max(0, low - margin), high + margin];
}

/** The points with each value replaced by the mean of its neighbours. */
export function smooth(points) {
  const reach = Math.ceil(points.length / 120);
  return points.map(([step], place) => {
    const near = points.slice(Math.max(0, place - reach), place + reach + 1);
    return [step, near.reduce((sum, [, value]) => sum + value, 0) / near.length];
  });
}

/**
 * Draws the curves, lists of `[step, bits per character]`, into `figure`. `at` is a step to mark, or undefined.
 * Returns the scales of the picture; nothing while the figure is hidden.
 */
export function plot(figure, { training, validation, at }) {
  if (!figure.clientWidth || !figure.clientHeight) return;
  const frame = scalesOf(figure, training, validation);
  const svg = draw("svg", { width: frame.width, height: frame.height, role: "img", "aria-label": summary(training, validation) });
  svg.append(...axes(frame));
  const curves = { steps: training, training: smooth(training), validation };
  for (const [name, points] of Object.entries(curves)) svg.append(draw("polyline", { class: name, points: line(points, frame) }));
  if (at !== undefined) svg.append(draw("line", { class: "at", x1: frame.x(at), x2: frame.x(at), y1: MARGIN.top, y2: frame.bottom }));
  svg.append(...validation.map((point) => dot(point, frame, at)));
  if (frame.width >= SMALL) svg.append(...names({ training: curves.training, validation }, frame));
  figure.replaceChildren(svg);
  return frame;
}

function scalesOf({ clientWidth: width, clientHeight: height }, training, validation) {
  const last = Math.max(1, training.at(-1)?.[0] ?? 0, validation.at(-1)?.[0] ?? 0);
  const [low, high] = bounds(training, validation);
  const right = width - (width < SMALL ? 16 : MARGIN.right);
  const bottom = height - MARGIN.bottom;
  const x = (step) => MARGIN.left + (step / last) * (right - MARGIN.left);
  const y = (value) => MARGIN.top + ((high - value) / (high - low)) * (bottom - MARGIN.top);
  const stepAt = (place) => ((place - MARGIN.left) / (right - MARGIN.left)) * last;
  return { width, height, right, bottom, last, low, high, x, y, stepAt };
}

function line(points, { x, y, high }) {
  const shown = points.filter(([, value]) => value <= high);
  return shown.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
}

function* axes({ width, height, right, bottom, last, low, high, x, y }) {
  for (const value of ticks(low, high, height / 70)) {
    yield draw("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) });
    yield draw("text", { x: MARGIN.left - 10, y: y(value) + 4, "text-anchor": "end" }, String(value));
  }
  for (const step of ticks(0, last, width / 140)) {
    yield draw("text", { x: x(step), y: bottom + 20, "text-anchor": "middle" }, number(step));
  }
  yield draw("text", { x: right, y: height - 4, "text-anchor": "end" }, "steps");
  yield draw("text", { x: 0, y: 12 }, "bits per character (lower is better)");
}

function dot([step, value], { x, y }, at) {
  const made = draw("circle", { class: step === at ? "dot here" : "dot", cx: x(step), cy: y(value), r: 3.5 });
  made.append(draw("title", {}, `Step ${number(step)}: ${number(value, 3)} bits per character`));
  return made;
}

/** The curves' names next to their ends, without overlap. */
function names(curves, { right, y }) {
  const ends = Object.entries(curves).filter(([, points]) => points.length).map(([name, points]) => ({ name, y: y(points.at(-1)[1]) }));
  ends.sort((a, b) => a.y - b.y);
  if (ends.length > 1) ends[1].y = Math.max(ends[1].y, ends[0].y + 18);
  return ends.map((end) => draw("text", { class: `${end.name}-name`, x: right + 8, y: end.y + 4 }, end.name));
}

function summary(training, validation) {
  const end = (points) => (points.length ? `${number(points.at(-1)[1], 3)} at step ${points.at(-1)[0]}` : "none yet");
  return `Bits per character at each training step. Training: ${end(training)}. Validation: ${end(validation)}.`;
}
