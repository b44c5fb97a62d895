/** Taking a text away from the page. */

/** Saves a text as a file of this name. */
export function save(text, name) {
  const href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  Object.assign(document.createElement("a"), { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000); // the browser reads it a little later
}

/** Copies a text; resolves to what to say. Browsers let a page do that only on this machine or over TLS. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied.";
  } catch {
    return "The browser does not let this page copy; save the text instead.";
  }
}
