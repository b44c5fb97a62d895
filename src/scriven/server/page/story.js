/** A text and who wrote which part of it. A story is a list of parts `{text, by}`, by "you" or "model"; never changed. */

export const textOf = (story) => story.map((part) => part.text).join("");

/** The story with more text by somebody. */
export function add(story, text, by) {
  if (!text) return story;
  const last = story.at(-1);
  if (last?.by !== by) return [...story, { text, by }];
  return [...story.slice(0, -1), { text: last.text + text, by }];
}

/** The first `length` units of a story. */
export function before(story, length) {
  const kept = [];
  for (const part of story) {
    if (length > 0) kept.push({ ...part, text: part.text.slice(0, length) });
    length -= part.text.length;
  }
  return kept;
}

/** A story whose text you changed to `text`: what is as it was at both ends stays its author's, the rest is yours. */
export function retold(story, text) {
  const old = textOf(story);
  const most = Math.min(old.length, text.length);
  let head = 0;
  while (head < most && old[head] === text[head]) head++;
  let tail = 0;
  while (tail < most - head && old[old.length - 1 - tail] === text[text.length - 1 - tail]) tail++;
  const changed = add(before(story, head), text.slice(head, text.length - tail), "you");
  return after(story, old.length - tail).reduce((made, part) => add(made, part.text, part.by), changed);
}

function after(story, start) {
  const kept = [];
  let place = 0;
  for (const part of story) {
    const text = part.text.slice(Math.max(0, start - place));
    if (text) kept.push({ ...part, text });
    place += part.text.length;
  }
  return kept;
}

/** Where the character that holds unit `place` begins: not within a pair of surrogates. */
export const characterAt = (text, place) => (isLow(text, place) ? place - 1 : place);

/** Where the next character begins. */
export const following = (text, place) => Math.min(text.length, place + (text.codePointAt(place) > 0xffff ? 2 : 1));

/** Where the character before begins. */
export const preceding = (text, place) => Math.max(0, characterAt(text, place - 1));

const isLow = (text, place) => place > 0 && /[\ud800-\udbff][\udc00-\udfff]/.test(text.slice(place - 1, place + 1));
