/** Checks a text before the model reads it. */

const BROKEN = 0.01; // share of undecodable characters above which a file is not taken for UTF-8

/** Whether a file is not text: it has NUL characters, or much of it could not be decoded and became U+FFFD. */
export function isBinary(text) {
  return text.includes("\0") || text.split("\ufffd").length - 1 > BROKEN * text.length;
}

/** A warning if the text's line ends differ from those that the model learned; otherwise "". */
export function lineEndWarning(text, { unit, separator, knowsReturn }) {
  if (unit === "byte" || separator.includes("\n") || !text.includes("\n")) return "";
  const has = text.includes("\r");
  if (has && !knowsReturn) return "The lines of this text end in CR LF, as on Windows. The model has never seen a CR, so each one counts as very surprising.";
  if (!has && knowsReturn) return "The model learned lines that end in CR LF, as on Windows, but this text has no CR. Pasting removes them: open the file instead.";
  return "";
}
