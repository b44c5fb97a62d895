/** What the browser keeps for this page: "local" for good, "session" until the tab is closed. In a private window it may keep nothing. */

/** Of a page in a file, since all files share what the browser keeps. */
const { scope = "" } = document.documentElement.dataset;

/** The value stored under a key; null if there is none, or it cannot be read. */
export function load(key, place = "local") {
  try {
    return JSON.parse(globalThis[`${place}Storage`].getItem(scope + key));
  } catch {
    return null;
  }
}

/** Stores a value as JSON. Returns whether the browser keeps it. */
export function store(key, value, place = "local") {
  try {
    globalThis[`${place}Storage`].setItem(scope + key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
