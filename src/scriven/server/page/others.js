/** The characters that could stand at a place instead, each with its probability. */

import * as api from "./api.js";
import { byId, isBlank, make, named, percent, told } from "./parts.js";

const ASKED = 20;
const SHOWN = { least: 5, most: 12, share: 0.001 }; // how many, and those as likely as this

let asking = null;

/**
 * Opens the list beside `anchor`. `here` is `{after, character}`: the text before the place, and what stands there;
 * `choose(character)` is called with the one that is taken, `closed()` when the list goes away.
 */
export async function openOthers(anchor, here, app, choose, closed) {
  asking?.abort();
  const { signal } = (asking = new AbortController());
  const box = byId("others");
  byId("others-title").replaceChildren(...title(here.after));
  byId("others-list").replaceChildren(make("li", { className: "hint" }, "Asking the model …"));
  box.showPopover();
  beside(anchor, box);
  box.addEventListener("toggle", (event) => event.newState === "closed" && leave(closed), { signal });
  try {
    const found = await api.likeliest(app.model, here.after, ASKED, signal);
    if (signal.aborted) return;
    fill(found, here.character, (character) => {
      box.hidePopover();
      choose(character);
    });
    beside(anchor, box);
    app.say(`${byId("others-list").querySelectorAll("button").length} characters could stand here`);
  } catch (error) {
    byId("others-list").replaceChildren(make("li", { className: "hint" }, told(error)));
  }
}

function leave(closed) {
  asking?.abort();
  closed();
}

function title(text) {
  const tail = [...text].slice(-14).join("").replaceAll("\n", " ").trimStart();
  return tail ? ["After ", make("q", {}, `… ${tail}`)] : ["At the very beginning"];
}

function fill(found, character, choose) {
  const shown = found.slice(0, SHOWN.most).filter((each, rank) => rank < SHOWN.least || each.probability >= SHOWN.share);
  const here = found.find((each) => each.text === character) ?? { text: character, probability: 0 };
  if (character && !shown.includes(here)) shown.push(here);
  const most = shown[0].probability;
  const buttons = shown.map((each) => button(each, most, each.text === character, choose));
  byId("others-list").replaceChildren(...buttons.map((each) => make("li", {}, each)));
  byId("others-list").onkeydown = (event) => walk(event, buttons);
  (buttons[shown.indexOf(here)] ?? buttons[0]).focus();
}

function button({ text, probability }, most, here, choose) {
  const bar = make("span", { className: "bar-of" });
  bar.style.width = `${(100 * probability) / most}%`;
  const glyph = make("span", { className: isBlank(text) ? "glyph word" : "glyph" }, named(text));
  const share = make("span", { className: "share" }, probability ? percent(probability) : "rarer");
  const made = make("button", { type: "button" }, glyph, make("span", { className: "track", ariaHidden: "true" }, bar), share);
  if (here) made.setAttribute("aria-current", "true");
  made.addEventListener("click", () => choose(text));
  return made;
}

function walk(event, buttons) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const next = buttons.indexOf(document.activeElement) + step;
  buttons[(next + buttons.length) % buttons.length].focus();
}

function beside(anchor, box) {
  if (!anchor.isConnected || innerWidth < 640) return; // small screens: the style puts it at the bottom
  const at = anchor.getBoundingClientRect();
  const { width, height } = box.getBoundingClientRect();
  const left = Math.max(12, Math.min(at.left - 24, innerWidth - width - 12));
  const under = at.bottom + 8 + height < innerHeight;
  box.style.left = `${left}px`;
  box.style.top = `${Math.max(12, under ? at.bottom + 8 : at.top - height - 8)}px`;
}
