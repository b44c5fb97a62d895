/** What the browser keeps for this page: "local" for good, "session" until the tab is closed. In a private window it may keep nothing. */

const places = { local: () => localStorage, session: () => sessionStorage };

/** The value stored under a key; null if there is none, or it cannot be read. */
export function load(key, place = "local") {
  try {
    return JSON.parse(places[place]().getItem(key));
  } catch {
    return null;
  }
}

/** Stores a value as JSON. Returns whether the browser keeps it. */
export function store(key, value, place = "local") {
  try {
    places[place]().setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
