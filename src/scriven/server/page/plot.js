/** Draws the losses of runs over one another: of each, a thin line for training and a thick one for validation. */

import { number } from "./elements.js";

const SPACE = "http://www.w3.org/2000/svg";
const MARGIN = { top: 34, right: 100, bottom: 40, left: 52 };
const SMALL = 520; // pixels of width below which the names of curves do not fit
const NAME_HEIGHT = 17; // pixels between two names at least
const CLIPPED = { low: 0.005, high: 0.95 }; // quantiles of the training losses between which the curves are shown

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

function quantile(values, share) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.round(share * (sorted.length - 1))];
}

/**
 * The range of losses to show, of curves of `{x, bits}`: the quantiles of training losses, and all validation losses of
 * the later half. The first losses are far above all others, and single ones far from them say little.
 */
export function bounds(runs) {
  const shown = [];
  for (const { training, validation } of runs) {
    const values = training.map((each) => each.bits);
    if (values.length) shown.push(quantile(values, CLIPPED.low), quantile(values, CLIPPED.high));
    shown.push(...validation.slice(Math.floor(validation.length / 2)).map((each) => each.bits));
  }
  if (!shown.length) return [0, 1];
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  const margin = (high - low || 1) * 0.06;
  return [Math.max(0, low - margin), high + margin];
}

/** The points with each value replaced by the mean of its neighbours. */
function smooth(points) {
  const reach = Math.ceil(points.length / 120);
  return points.map((point, place) => {
    const near = points.slice(Math.max(0, place - reach), place + reach + 1);
    return { ...point, bits: near.reduce((sum, { bits }) => sum + bits, 0) / near.length };
  });
}

/** The point nearest to `x`, or undefined. */
export const nearest = (points, x) =>
  points.reduce((best, each) => (best && Math.abs(best.x - x) <= Math.abs(each.x - x) ? best : each), undefined);

/**
 * Draws runs `{name, training, validation}` into `figure`, the first one strongest; points are `{x, bits, step}`. `unit`
 * is that of the x axis, `symbol` what the bits are counted by, `at` a place on the axis to mark, or undefined. Returns
 * the scales of the picture and the `curves` in it, which are runs with their training smoothed; nothing while the figure
 * is hidden.
 */
export function plot(figure, { runs, unit, symbol, at }) {
  if (!figure.clientWidth || !figure.clientHeight) return;
  const frame = scalesOf(figure, runs);
  const svg = draw("svg", { width: frame.width, height: frame.height, role: "img", "aria-label": summary(runs, unit, symbol) });
  svg.append(...axes(frame, unit, symbol));
  const curves = runs.map((run) => ({ ...run, training: smooth(run.training) }));
  curves.forEach((run, place) => svg.append(...lines(run, runs[place].training, place, frame)));
  if (at !== undefined) svg.append(draw("line", { class: "at", x1: frame.x(at), x2: frame.x(at), y1: MARGIN.top, y2: frame.bottom }));
  runs.forEach(({ validation }, place) => svg.append(...validation.map((point) => dot(point, place, frame, at))));
  svg.append(draw("line", { class: "pointer", y1: MARGIN.top, y2: frame.bottom, visibility: "hidden" }));
  if (frame.width >= SMALL) svg.append(...names(curves, frame));
  figure.replaceChildren(svg);
  return { ...frame, curves };
}

function* lines({ training, validation }, steps, place, frame) {
  for (const [kind, points] of Object.entries({ ...(place ? {} : { steps }), training, validation })) {
    yield draw("polyline", { class: `${kind} run${place}`, points: line(points, frame) });
  }
}

function scalesOf({ clientWidth: width, clientHeight: height }, runs) {
  const last = Math.max(1e-9, ...runs.flatMap(({ training, validation }) => [training.at(-1)?.x ?? 0, validation.at(-1)?.x ?? 0]));
  const [low, high] = bounds(runs);
  const right = width - (width < SMALL ? 16 : MARGIN.right);
  const bottom = height - MARGIN.bottom;
  const x = (value) => MARGIN.left + (value / last) * (right - MARGIN.left);
  const y = (value) => MARGIN.top + Math.min(1, Math.max(0, (high - value) / (high - low))) * (bottom - MARGIN.top);
  const valueAt = (place) => ((place - MARGIN.left) / (right - MARGIN.left)) * last;
  return { width, height, right, bottom, last, low, high, x, y, valueAt };
}

const line = (points, { x, y }) => points.map((point) => `${x(point.x).toFixed(1)},${y(point.bits).toFixed(1)}`).join(" ");

function* axes({ width, height, right, bottom, last, low, high, x, y }, unit, symbol) {
  for (const value of ticks(low, high, height / 70)) {
    yield draw("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) });
    yield draw("text", { x: MARGIN.left - 10, y: y(value) + 4, "text-anchor": "end" }, value);
  }
  for (const value of ticks(0, last, width / 140)) {
    yield draw("text", { x: x(value), y: bottom + 20, "text-anchor": "middle" }, value < 10 ? value : number(value));
  }
  yield draw("text", { x: right, y: height - 4, "text-anchor": "end" }, unit);
  yield draw("text", { x: 0, y: 12 }, `bits per ${symbol} (lower is better)`);
}

function dot(point, place, { x, y }, at) {
  const here = !place && point.x === at ? " here" : "";
  return draw("circle", { class: `dot run${place}${here}`, cx: x(point.x), cy: y(point.bits), r: place ? 2.5 : 3.5 });
}

/** The curves' names next to their ends, without overlap: of one run its two curves', of several the runs'. */
function names(runs, { right, y }) {
  const [{ training, validation } = {}] = runs;
  const curves = [["training", training, ""], ["validation", validation, "name0"]];
  const several = runs.map((run, place) => [run.name.slice(0, 14), run.validation.length ? run.validation : run.training, `name${place}`]);
  const shown = (runs.length > 1 ? several : curves).filter(([, points]) => points?.length);
  const height = ([, points]) => y(points.at(-1).bits);
  let free = -Infinity; // the next y that no name covers
  return shown.sort((a, b) => height(a) - height(b)).map((end) => {
    const at = Math.max(height(end), free);
    free = at + NAME_HEIGHT;
    return draw("text", { class: end[2], x: right + 8, y: at + 4 }, end[0]);
  });
}

function summary(runs, unit, symbol) {
  const end = (points) => (points.length ? `${number(points.at(-1).bits, 3)} at step ${points.at(-1).step}` : "none yet");
  const each = runs.map(({ name, training, validation }) => `${name}: Training: ${end(training)}. Validation: ${end(validation)}.`);
  return `Bits per ${symbol} over ${unit}. ${each.join(" ")}`;
}
