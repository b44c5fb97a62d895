/** The frame around the views: tabs, choice of model, light or dark colours, access token. */

import * as api from "./api.js";
import * as compare from "./compare.js";
import { byId, on, option } from "./elements.js";
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
  /** Calls `callback` whenever another model is selected. */
  onModel(callback) {
    on("model", "change", callback);
  },
  /** Announces a sentence to screen readers. */
  announce(words) {
    byId("announcement").textContent = words;
  },
};

function open(name, focus = false) {
  for (const tab of tabs) {
    const here = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(here));
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
  const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => open(names[place]));
    tab.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      const next = place + steps[event.key];
      event.preventDefault();
      open(names[Number.isFinite(next) ? (next + names.length) % names.length : next < 0 ? 0 : names.length - 1], true);
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
  const first = viewOfAddress();
  byId(first).hidden = false;
  try {
    app.models = await api.modelNames();
  } catch (error) {
    byId("write-note").textContent = `The models could not be listed: ${error.message}.`;
  }
  byId("model").replaceChildren(...app.models.map(option));
  open(first);
}

begin();
