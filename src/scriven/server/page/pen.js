/** Text that arrives in pieces, shown as if it were written: character by character, never far behind. */

import { calm, frame } from "./parts.js";

const SLOWEST = 220; // characters a second
const BEHIND = 0.7; // seconds in which what waits is written, however much it is

/**
 * Takes pieces `{text, ended, unknown}` from `pieces` and calls `put(text)` with what to add at each picture of the screen.
 * Resolves when all is shown to `{ended, unknown}`: whether the text ended by itself, and characters of the prompt that
 * the model does not know; `signal` ends it at what is shown then.
 */
export async function trickle(pieces, put, signal) {
  const pen = { waiting: "", done: false, ended: false, unknown: [] };
  const arriving = gather(pieces, pen);
  arriving.catch(() => {}); // told below, after what came before it is shown
  let then = performance.now();
  while (!signal.aborted && !(pen.done && !pen.waiting)) {
    await frame();
    const now = performance.now();
    if (!signal.aborted) put(taken(pen, (now - then) / 1000));
    then = now;
  }
  await arriving;
  return { ended: pen.ended, unknown: pen.unknown };
}

async function gather(pieces, pen) {
  try {
    for await (const piece of pieces) {
      pen.waiting += piece.text;
      pen.ended ||= piece.ended;
      pen.unknown = piece.unknown;
    }
  } finally {
    pen.done = true;
  }
}

function taken(pen, seconds) {
  const share = pen.waiting.length / BEHIND;
  const length = calm() ? pen.waiting.length : Math.ceil(Math.max(SLOWEST, share) * seconds);
  const cut = /[\ud800-\udbff]$/.test(pen.waiting.slice(0, length)) ? length + 1 : length;
  const text = pen.waiting.slice(0, cut);
  pen.waiting = pen.waiting.slice(cut);
  return text;
}
