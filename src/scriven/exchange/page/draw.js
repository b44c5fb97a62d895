/** Draws a symbol from logits, by the same operations in the same order as kernels/native/draw.cpp. */

import { exponential64 } from "./functions.js";

const FEW = 128; // symbols; more of them are not ranked as a whole
const OCTAVES = 64;
const words = new Uint32Array(2);
const number = new Float64Array(words.buffer);

/** An id below `count`, by settings `{temperature, top_k, top_p, min_p}` and a random number in [0, 1). */
export function draw(logits, count, settings, uniform) {
  if (settings.temperature === 0) return likeliest(logits, count);
  const weights = weigh(logits, count, settings.temperature);
  if (!(settings.top_k > 0 || settings.top_p < 1 || settings.min_p > 0)) return passed(weights, uniform);
  if (count > FEW) return passed(filterMany(weights, settings), uniform);
  const ids = filterFew(weights, settings);
  return ids[passed(Float64Array.from(ids, (id) => weights[id]), uniform)];
}

function likeliest(logits, count) {
  let best = 0;
  for (let id = 1; id < count; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

/** exp((logit - largest) / temperature) of the first symbols. */
function weigh(logits, count, temperature) {
  let largest = logits[0];
  for (let id = 1; id < count; id++) largest = Math.max(largest, logits[id]);
  const weights = new Float64Array(count);
  for (let id = 0; id < count; id++) weights[id] = exponential64((logits[id] - largest) / temperature);
  return weights;
}

/** The place where the cumulated weights pass the share `uniform` of their sum. Changes the weights. */
function passed(weights, uniform) {
  let total = 0;
  for (let place = 0; place < weights.length; place++) weights[place] = total += weights[place];
  const limit = uniform * total;
  let place = 0;
  while (place < weights.length - 1 && weights[place] <= limit) place++;
  return place;
}

const byRank = (weights) => (a, b) => weights[b] - weights[a] || a - b;

/** The ids, in rising order, that all filters keep. */
function filterFew(weights, { top_k: k, top_p: p, min_p: least }) {
  const count = weights.length;
  const ranked = Array.from(weights.keys()).sort(byRank(weights));
  const first = k > 0 && k < count ? k : count;
  const sums = [0, 0, 0, 0];
  for (let place = 0; place < first; place++) sums[place % 4] += weights[ranked[place]];
  const all = sums[0] + sums[1] + (sums[2] + sums[3]);
  const wanted = p < 1 ? p * all : 2 * all;
  let [held, kept] = [0, 0];
  while (kept < first && held < wanted && weights[ranked[kept]] >= least) held += weights[ranked[kept++]];
  return ranked.slice(0, kept).sort((a, b) => a - b);
}

/** The weights, with 0 for those that a filter leaves out. */
function filterMany(weights, { top_k: k, top_p: p, min_p: least }) {
  if (k > 0 && k < weights.length) keepFirst(weights, k, (weight) => (weight > 0 ? 1 : 0));
  if (p < 1) keepFirst(weights, p * weights.reduce((sum, weight) => sum + weight, 0), (weight) => weight);
  return weights.map((weight) => (weight < least ? 0 : weight));
}

/** The octave of a weight of at most 1: 0 for 1, 1 for those of at least 1/2, and so on. */
function octaveOf(weight) {
  number[0] = weight;
  return Math.min(OCTAVES - 1, 1023 - (words[1] >>> 20));
}

/** Keeps the weights of the fewest top symbols whose values together reach `wanted`; all if they never do. */
function keepFirst(weights, wanted, value) {
  const sums = [new Float64Array(OCTAVES), new Float64Array(OCTAVES)];
  weights.forEach((weight, id) => (sums[id % 2][octaveOf(weight)] += value(weight)));
  let [held, last] = [0, 0];
  for (; last < OCTAVES - 1; last++) {
    const after = held + sums[0][last] + sums[1][last];
    if (after >= wanted) break;
    held = after;
  }
  const before = weights.slice();
  const octaves = Array.from(before, octaveOf);
  const candidates = octaves.flatMap((octave, id) => (octave === last ? [id] : []));
  weights.forEach((weight, id) => (weights[id] = octaves[id] < last ? weight : 0));
  for (const id of candidates.sort(byRank(before))) {
    if (held >= wanted) return;
    weights[id] = before[id];
    held += value(before[id]);
  }
}
