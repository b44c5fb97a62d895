/** The frame around the views: tabs, choice of model, light or dark colours, access token. */

import * as api from "./api.js";
import * as compare from "./compare.js";
import { byId, hide, on, option, say } from "./elements.js";
import * as read from "./read.js";
import { load, store } from "./storage.js";
import * as watch from "./watch.js";
import * as write from "./write.js";

const THEME = "scriven-theme";
const views = { write, read, watch, compare };
const tabs = [...document.querySelectorAll("[role=tab]")];
const started = new Set();

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

function open(name, focus = false) {
  if (byId("tabs").hidden) name = "watch";
  for (const tab of tabs) {
    const here = tab.id === `tab-${name}`;
    tab.ariaSelected = here;
    tab.tabIndex = here ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !here;
    if (here && focus) tab.focus();
  }
  byId("pick").hidden = name === "compare" || name === "watch" || app.models.length < 2;
  if (!started.has(name)) views[name].start(app);
  started.add(name);
  views[name].shown?.();
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
}

function viewOfAddress() {
  const name = location.hash.slice(1).split("?")[0];
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
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const showOther = () => (byId("theme").textContent = dark() ? "Light" : "Dark");
  const saved = load(THEME);
  if (saved) root.dataset.theme = saved;
  on("theme", "click", () => {
    store(THEME, (root.dataset.theme = dark() ? "light" : "dark"));
    showOther();
  });
  showOther();
}

function askForToken() {
  const dialog = byId("token-dialog");
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue ? byId("token-input").value : null), { once: true });
    byId("token-input").value = "";
    dialog.showModal();
  });
}

async function begin() {
  listenToTheme();
  listenToTabs();
  api.storeTokenFromAddress();
  api.onTokenNeeded(askForToken);
  try {
    app.offer(await api.modelNames());
  } catch (error) {
    say("write-note", `The models could not be listed: ${error.message}.`);
  }
  open(viewOfAddress());
}

begin();
