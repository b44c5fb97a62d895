/** The frame around the views: tabs, choice of model, light or dark colours. */

import { byId, hide, on, option, say } from "./elements.js";
import { load, store } from "./storage.js";

const THEME = "scriven-theme";
const tabs = [...document.querySelectorAll("[role=tab]")];
const started = new Set();
/** Modules by the names of their tabs. */
let views;

const app = {
  models: [],
  get model() {
    return byId("model").value;
  },
  /** Selects a model. */
  choose(name) {
    byId("model").value = name;
    byId("model").dispatchEvent(new Event("change"));
  },
  /** Offers these models; those already offered stay. Without any, there is only Watch, where one is trained. */
  offer(names) {
    const added = names.filter((name) => !app.models.includes(name));
    app.models.push(...added);
    byId("model").append(...added.map(option));
    hide("tabs", !app.models.length);
    return added;
  },
  /** Calls `callback` whenever another model is selected. */
  onModel: (callback) => on("model", "change", callback),
  /** Announces a sentence to screen readers. */
  announce: (words) => say("announcement", words),
};

function open(name, focus) {
  if (byId("tabs").hidden) name = "watch";
  for (const tab of tabs) {
    const here = tab.id === `tab-${name}`;
    tab.ariaSelected = here;
    tab.tabIndex = here ? 0 : -1;
    hide(tab.id.slice(4), !here);
    if (here && focus) tab.focus();
  }
  hide("pick", /compare|watch/.test(name) || app.models.length < 2);
  if (!started.has(name)) views[name].start(app);
  started.add(name);
  views[name].shown?.();
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
}

function viewOfAddress() {
  const [name] = location.hash.slice(1).split("?");
  return Object.hasOwn(views, name) ? name : "write";
}

function listenToTabs() {
  const names = Object.keys(views);
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => open(names[place]));
    tab.addEventListener("keydown", (event) => {
      const next = { ArrowRight: (place + 1) % names.length, ArrowLeft: place - 1, Home: 0, End: -1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      open(names.at(next), true);
    });
  });
  addEventListener("hashchange", () => open(viewOfAddress()));
}

function listenToTheme() {
  const { dataset } = document.documentElement;
  const dark = () => (dataset.theme ? dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const showOther = () => say("theme", dark() ? "Light" : "Dark");
  if (load(THEME)) dataset.theme = load(THEME);
  on("theme", "click", () => {
    store(THEME, (dataset.theme = dark() ? "light" : "dark"));
    showOther();
  });
  showOther();
}

/** Shows the page with these views; `list()` resolves to the names of the models. */
export async function startFrame(given, list) {
  views = given;
  listenToTheme();
  listenToTabs();
  try {
    app.offer(await list());
  } catch (error) {
    say("write-note", `The models could not be listed: ${error.message}.`);
  }
  open(viewOfAddress());
}
