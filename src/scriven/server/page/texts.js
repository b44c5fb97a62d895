/** What is to be said of a text before it is read. */

const BROKEN = 0.01; // of the characters, from which on a file is taken for something else than UTF-8

/** Whether what a file holds is no text: it has zeros, or much of it was not UTF-8 and is U+FFFD now. */
export function isBinary(text) {
  return text.includes("\0") || text.split("\ufffd").length - 1 > BROKEN * text.length;
}

/** A sentence where the lines of a text end in another way than those that the model learned from; else "". */
export function lineEnds(text, { unit, edge, returns }) {
  if (unit === "byte" || edge.includes("\n") || !text.includes("\n")) return "";
  const has = text.includes("\r");
  if (has && !returns) return "Lines of this text end in CR LF, as on Windows. The model does not know the CR: each one costs much.";
  if (!has && returns) return "The model learned lines that end in CR LF, as on Windows. This text has no CR, as none has that is pasted: open the file instead.";
  return "";
}
