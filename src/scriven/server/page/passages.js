/**
 * A text as a list of passages `{text, by}`, written by "you" or by "model". Functions return new lists and change none.
 * Places and lengths are counted in UTF-16 code units.
 */

export const textOf = (passages) => passages.map((part) => part.text).join("");

/** The passages with `text` by `by` at their end. */
export function appendText(passages, text, by) {
  if (!text) return passages;
  const last = passages.at(-1);
  if (last?.by !== by) return [...passages, { text, by }];
  return [...passages.slice(0, -1), { text: last.text + text, by }];
}

/** The passages up to `length`. */
export function firstUnits(passages, length) {
  const result = [];
  for (const part of passages) {
    if (length > 0) result.push({ ...part, text: part.text.slice(0, length) });
    length -= part.text.length;
  }
  return result;
}

/** The passages after you changed their text to `text`. The unchanged start and end keep their authors; the rest is yours. */
export function withEditedText(passages, text) {
  const old = textOf(passages);
  const most = Math.min(old.length, text.length);
  let head = 0;
  while (head < most && old[head] === text[head]) head++;
  let tail = 0;
  while (tail < most - head && old[old.length - 1 - tail] === text[text.length - 1 - tail]) tail++;
  const changed = appendText(firstUnits(passages, head), text.slice(head, text.length - tail), "you");
  return unitsFrom(passages, old.length - tail).reduce((made, part) => appendText(made, part.text, part.by), changed);
}

/** The passages from `start` on. */
export function unitsFrom(passages, start) {
  const result = [];
  let place = 0;
  for (const part of passages) {
    const text = part.text.slice(Math.max(0, start - place));
    if (text) result.push({ ...part, text });
    place += part.text.length;
  }
  return result;
}

/** The start of the character at `place`: never between the two units of a surrogate pair. */
export const startOfCharacter = (text, place) => (isLow(text, place) ? place - 1 : place);

/** The start of the next character. */
export const nextCharacter = (text, place) => Math.min(text.length, place + (text.codePointAt(place) > 0xffff ? 2 : 1));

/** The start of the character before. */
export const previousCharacter = (text, place) => Math.max(0, startOfCharacter(text, place - 1));

/** Whether what stands at `place` is drawn as one with the character before it: a combining mark, or what a joiner joins. */
export const isMark = (text, place) =>
  text.charCodeAt(place) >= 0x300 && (text[place - 1] === "\u200d" || /^[\p{M}\p{Emoji_Modifier}\u200d]/u.test(text.slice(place, place + 2)));

const isLow = (text, place) => place > 0 && /[\ud800-\udbff][\udc00-\udfff]/.test(text.slice(place - 1, place + 1));
