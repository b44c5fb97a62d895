/** Saves or copies a text. */

/** Downloads a text as a file of this name. */
export function save(text, name) {
  const href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  Object.assign(document.createElement("a"), { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000); // the browser reads it a little later
}

/** Copies a text to the clipboard and resolves to whether that worked. Browsers allow it only on this machine or over HTTPS. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
