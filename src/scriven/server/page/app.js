/** The frame of the page: which view is open, which model is asked, light or dark. */

import * as api from "./api.js";
import * as compare from "./compare.js";
import * as read from "./read.js";
import * as watch from "./watch.js";
import * as write from "./write.js";
import { byId, option } from "./parts.js";

const views = { write, read, watch, compare };
const tabs = [...document.querySelectorAll("[role=tab]")];
const started = new Set();

const app = {
  models: [],
  get model() {
    return byId("model").value;
  },
  /** Calls back whenever another model is chosen. */
  onModel(callback) {
    byId("model").addEventListener("change", callback);
  },
  /** Says a sentence to those who do not see the page. */
  say(words) {
    byId("said").textContent = words;
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
  byId("pick").hidden = name === "compare";
  if (!started.has(name)) views[name].start(app);
  started.add(name);
  views[name].shown?.();
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
}

function asked() {
  const name = location.hash.slice(1);
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
  addEventListener("hashchange", () => open(asked()));
}

function listenToTheme() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => (byId("theme").textContent = dark() ? "Light" : "Dark");
  const kept = localStorage.getItem("scriven-theme");
  if (kept) root.dataset.theme = kept;
  byId("theme").addEventListener("click", () => {
    localStorage.setItem("scriven-theme", (root.dataset.theme = dark() ? "light" : "dark"));
    name();
  });
  name();
}

function token() {
  const gate = byId("gate");
  return new Promise((resolve) => {
    gate.addEventListener("close", () => resolve(gate.returnValue ? byId("gate-token").value : null), { once: true });
    byId("gate-token").value = "";
    gate.showModal();
  });
}

async function begin() {
  listenToTheme();
  listenToTabs();
  api.takeToken();
  api.whenLocked(token);
  const first = asked();
  byId(first).hidden = false;
  try {
    app.models = await api.models();
  } catch (error) {
    byId("write-note").textContent = `No model can be asked: ${error.message}.`;
  }
  byId("model").replaceChildren(...app.models.map(option));
  open(first);
}

begin();
