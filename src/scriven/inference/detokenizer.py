"""Turns blocks of ids into text, up to the place where the text ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scriven.arrays import Ids
from scriven.vocabulary import Decoder, Vocabulary

NOWHERE = np.empty(0, np.int64)


class StreamDecoder:
    """Decodes ids that come in blocks into text, up to the first stop string that is complete.

    With `until_end` the text also ends where its document ends. Text that may be the beginning of a stop string is held
    back until that is decided.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str], until_end: bool = False) -> None:
        self.done = False
        self.ended = False  # whether it reached the end of its document
        self.stopped = False  # whether it reached a stop string
        self._boundary = vocabulary.boundary if until_end else None
        self._decoder = vocabulary.decoder()
        self._stop = stop
        self._held = ""

    def feed(self, ids: Ids) -> tuple[str, int]:
        """Decodes ids (T,). Returns the text that is certain now, and the number of ids that it took.

        It takes all ids unless the text is `done`. The last one taken then completed a stop string, or ended the
        document.
        """
        if self.done:
            return "", 0
        ends = NOWHERE if self._boundary is None else np.flatnonzero(ids == self._boundary)[:1]
        inside = ids[: ends[0]] if len(ends) else ids
        before, held = self._decoder.copy() if self._stop else self._decoder, len(self._held)
        text, stop = self._take(self._decoder.feed(inside))
        if stop is not None:
            return text, _count(before, inside, stop - held)
        if not len(ends):
            return text, len(ids)
        self.ended = True
        return text + self.flush(), len(inside) + 1

    def flush(self) -> str:
        """Ends the text. Returns the part that was held back."""
        if self.done:
            return ""
        text, _ = self._take(self._decoder.flush())
        text += self._held
        self._held, self.done = "", True
        return text

    def _take(self, more: str) -> tuple[str, int | None]:
        """Takes more text. Returns the certain part, and, once a stop string is complete, the length up to its end."""
        if not self._stop:
            return more, None
        text = self._held + more
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            (end, begin), self._held = min(found), ""
            self.done = self.stopped = True
            return text[:begin], end
        longest = max(map(len, self._stop), default=1)
        begins = range(max(0, len(text) - longest + 1), len(text))  # where a stop string may have begun
        held = next((at for at in begins if any(stop.startswith(text[at:]) for stop in self._stop)), len(text))
        self._held = text[held:]
        return text[:held], None


def _count(decoder: Decoder, ids: Ids, wanted: int) -> int:
    """Returns the number of ids after which a decoder has given this many characters."""
    given = 0
    for count in range(len(ids)):
        given += len(decoder.feed(ids[count : count + 1]))
        if given >= wanted:
            return count + 1
    return len(ids)
