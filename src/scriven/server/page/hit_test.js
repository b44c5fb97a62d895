/** Finds the character under the mouse pointer. */

/** The index (in UTF-16 code units) of the character of `root`'s text at a point of the screen; null if there is none. */
export function unitAt(root, x, y) {
  const spot = document.caretPositionFromPoint?.(x, y);
  const range = spot ? null : document.caretRangeFromPoint?.(x, y);
  const node = spot?.offsetNode ?? range?.startContainer;
  const offset = spot?.offset ?? range?.startOffset;
  if (!node || node.nodeType !== Node.TEXT_NODE || !root.contains(node)) return null;
  const inside = [offset, offset - 1].find((at) => at >= 0 && at < node.length && covers(node, at, x, y));
  return inside === undefined ? null : unitsBefore(root, node) + inside;
}

function covers(node, at, x, y) {
  const range = document.createRange();
  range.setStart(node, at);
  range.setEnd(node, at + 1);
  return [...range.getClientRects()].some((box) => x >= box.left - 1 && x <= box.right + 1 && y >= box.top - 4 && y <= box.bottom + 4);
}

function unitsBefore(root, node) {
  const range = document.createRange();
  range.setStart(root, 0);
  range.setEnd(node, 0);
  return range.toString().length;
}
