/** Shows text that arrives in pieces as if it were being typed, never far behind what has arrived. */

import { nextFrame, prefersReducedMotion } from "./elements.js";

/** How fast: at least `slowest` characters per second, and everything that has arrived within `behind` seconds. */
const PACE = { slowest: 220, behind: 0.7 };

/**
 * Takes pieces `{text, ended, unknown}` and calls `put(text)` at each animation frame with the text to add.
 * Resolves when everything is shown, to `{ended, unknown}`: whether the text ended by itself, and the characters of the
 * prompt that the model does not know. `signal` stops it at once. `pace` is as `PACE`.
 */
export async function typeOut(pieces, put, signal, pace = PACE) {
  const buffer = { waiting: "", done: false, ended: false, unknown: [] };
  const arriving = collect(pieces, buffer);
  arriving.catch(() => {}); // awaited below, once the text before the error is shown
  let previous = performance.now();
  while (!signal.aborted && !(buffer.done && !buffer.waiting)) {
    await nextFrame();
    const now = performance.now();
    if (!signal.aborted) put(takeDue(buffer, (now - previous) / 1000, pace));
    previous = now;
  }
  await arriving;
  return { ended: buffer.ended, unknown: buffer.unknown };
}

async function collect(pieces, buffer) {
  try {
    for await (const piece of pieces) {
      buffer.waiting += piece.text;
      buffer.ended ||= piece.ended;
      buffer.unknown = piece.unknown;
    }
  } finally {
    buffer.done = true;
  }
}

function takeDue(buffer, seconds, { slowest, behind }) {
  const share = buffer.waiting.length / behind;
  const length = prefersReducedMotion() ? buffer.waiting.length : Math.ceil(Math.max(slowest, share) * seconds);
  const cut = /[\ud800-\udbff]$/.test(buffer.waiting.slice(0, length)) ? length + 1 : length;
  const text = buffer.waiting.slice(0, cut);
  buffer.waiting = buffer.waiting.slice(cut);
  return text;
}
