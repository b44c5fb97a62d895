"""Ids one by one -> text, up to where a text is to end."""

from __future__ import annotations

from collections.abc import Sequence

from scriven.vocabulary import Vocabulary


class Pen:
    """Turns ids that come one by one into text, up to the first of the stop strings to be complete.

    With `until_end` the text is also done where a document ends. Text that may be the beginning of a stop string is
    held back until that is decided.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str], until_end: bool = False) -> None:
        self.done = False
        self.ended = False  # by a document's end
        self._boundary = vocabulary.boundary if until_end else None
        self._decoder = vocabulary.decoder()
        self._stop = stop
        self._held = ""

    def feed(self, id: int) -> str:
        """The text that is certain now; nothing once `done`."""
        if id == self._boundary and not self.done:
            self.ended = True
            return self.flush()
        return "" if self.done else "".join(map(self._add, self._decoder.feed(id)))

    def flush(self) -> str:
        """The end: what was held back."""
        if self.done:
            return ""
        text = "".join(map(self._add, self._decoder.flush())) + self._held
        self._held, self.done = "", True
        return text

    def _add(self, character: str) -> str:
        if self.done:
            return ""
        text = self._held + character
        complete = [stop for stop in self._stop if text.endswith(stop)]
        if complete:
            self._held, self.done = "", True
            return text.removesuffix(max(complete, key=len))
        begins = range(len(text) + 1)  # where a stop string may begin, at the earliest
        held = next(at for at in begins if any(stop.startswith(text[at:]) for stop in self._stop) or at == len(text))
        self._held = text[held:]
        return text[:held]
