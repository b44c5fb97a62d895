/** The list of characters that could stand at a place instead, each with its probability. */

import * as api from "./api.js";
import { byId, errorText, inline, isBlank, make, nameCharacter, percent } from "./elements.js";

const REQUESTED = 20; // characters
const GOES_ON = "Choose one, and the model continues from there.";
const SHOWN = { least: 5, most: 12, probability: 0.001 }; // beyond the first 5, only characters at least this likely

const [box, list] = ["alternatives", "alternatives-list"].map(byId);
let request = null; // the controller of the open list

/**
 * Opens the list next to `anchor`. `here` is `{before, character, hint}`: the text before the place, the character there,
 * and what choosing another does, if not what it does in Write.
 * `choose(character)` is called with the user's choice, `closed()` when the list closes.
 */
export async function openAlternatives(anchor, here, app, choose, closed) {
  request?.abort();
  const { signal } = (request = new AbortController());
  byId("alternatives-title").replaceChildren(...title(here.before));
  list.replaceChildren(make("li", { className: "hint" }, "Asking the model …"));
  byId("alternatives-hint").textContent = here.hint ?? GOES_ON;
  box.showPopover();
  placeNextTo(anchor);
  box.addEventListener("toggle", (event) => event.newState === "closed" && finish(closed), { signal });
  try {
    const { unit } = await api.tokenizerFacts(app.model);
    if (unit === "token") throw new Error("This model writes tokens, and the page can only put single characters in place of others.");
    const found = await api.likeliestCharacters(app.model, here.before, REQUESTED, signal);
    if (signal.aborted) return;
    fill(found, here.character, (character) => {
      box.hidePopover();
      choose(character);
    });
    placeNextTo(anchor);
    app.announce(`${list.querySelectorAll("button").length} characters could stand here.`);
  } catch (error) {
    list.replaceChildren(make("li", { className: "hint" }, errorText(error)));
  }
}

function finish(closed) {
  request?.abort();
  closed();
}

function title(text) {
  const tail = [...text].slice(-14).join("").replaceAll("\n", " ").trimStart();
  return tail ? ["After ", make("q", {}, `… ${tail}`)] : ["At the very beginning"];
}

function fill(found, character, choose) {
  const shown = found.slice(0, SHOWN.most).filter((each, rank) => rank < SHOWN.least || each.probability >= SHOWN.probability);
  const here = found.find((each) => each.text === character) ?? { text: character, probability: 0 };
  if (character && !shown.includes(here)) shown.push(here);
  const most = shown[0].probability;
  const buttons = shown.map((each) => button(each, most, each.text === character, choose));
  list.replaceChildren(...buttons.map((each) => make("li", {}, each)));
  list.onkeydown = (event) => moveFocus(event, buttons);
  (buttons[shown.indexOf(here)] ?? buttons[0]).focus();
}

function button({ text, probability }, most, here, choose) {
  const bar = inline("bar-of");
  bar.style.width = `${(100 * probability) / most}%`;
  const glyph = inline(isBlank(text) ? "glyph word" : "glyph", nameCharacter(text));
  const share = inline("share", probability ? percent(probability) : "less likely");
  const made = make("button", {}, glyph, make("span", { className: "track", ariaHidden: "true" }, bar), share);
  if (here) made.ariaCurrent = "true";
  made.addEventListener("click", () => choose(text));
  return made;
}

function moveFocus(event, buttons) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const next = buttons.indexOf(document.activeElement) + step;
  buttons[(next + buttons.length) % buttons.length].focus();
}

function placeNextTo(anchor) {
  if (!anchor.isConnected || innerWidth < 640) return; // on small screens the style sheet puts it at the bottom
  const at = anchor.getBoundingClientRect();
  const { width, height } = box.getBoundingClientRect();
  const left = Math.max(12, Math.min(at.left - 24, innerWidth - width - 12));
  const under = at.bottom + 8 + height < innerHeight;
  box.style.left = `${left}px`;
  box.style.top = `${Math.max(12, under ? at.bottom + 8 : at.top - height - 8)}px`;
}
