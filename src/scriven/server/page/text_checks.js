/** Opens the text of a file, and checks a text before the model reads it. */

import * as api from "./api.js";

const BROKEN = 0.01; // share of undecodable characters above which a file is not taken for UTF-8

const HEAD = 65_536; // bytes of a file that are checked before the whole file is opened

/** The text of a file. Throws an error with a sentence for people if it is empty, or of a kind that cannot be read. */
export async function openText(file, signal) {
  if (!file.size) throw new Error(`The file ${file.name} is empty.`);
  if (/\.(docx|epub)$/i.test(file.name)) return api.extract(file, signal);
  for (const part of [file.slice(0, HEAD), file]) {
    const text = await part.text();
    if (isBinary(text)) throw new Error(`The file ${file.name} is neither .docx, .epub nor plain text (UTF-8). Save it as one of these.`);
    if (part === file) return text;
  }
}

/** Whether a file is not text: it has NUL characters, or much of it could not be decoded and became U+FFFD. */
function isBinary(text) {
  return text.includes("\0") || text.split("\ufffd").length - 1 > BROKEN * text.length;
}

/** A warning if the text's line ends differ from those that the model learned; otherwise "". */
export function lineEndWarning(text, { unit, separator, knowsReturn }) {
  if (unit !== "character" || separator.includes("\n") || !text.includes("\n")) return "";
  const has = text.includes("\r");
  if (has === knowsReturn) return "";
  if (has) return "The lines of this text end in CR LF, as on Windows. The model has never seen a CR, so each one counts as very surprising.";
  return "The model learned lines that end in CR LF, as on Windows, but this text has no CR. Pasting removes them: open the file instead.";
}
