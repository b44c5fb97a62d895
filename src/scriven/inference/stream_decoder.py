"""Decodes ids that are drawn block by block into a text, which ends at a stop string or where its document ends."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from scriven.arguments import check_stops, check_switch
from scriven.arrays import Ids
from scriven.errors import UsageError
from scriven.vocabulary import Decoder, Vocabulary, code_points

NEVER = chr(0x10FFFF)  # the number of no token that a model knows
NOWHERE = np.empty(0, np.int64)


def make_decoder(
    vocabulary: Vocabulary, stop: Sequence[str] = (), *, until_end: bool = False, after: str = ""
) -> StreamDecoder:
    """Returns the decoder of one text. It ends the text at a stop string and, with `until_end`, at its document's end.

    It follows the text `after`. Raises UsageError for values of other types, and for `until_end` if the model knows no
    documents.
    """
    check_switch("until_end", until_end)
    stop = check_stops(stop)
    if until_end and vocabulary.boundary is None:
        raise UsageError(
            "until_end: no text of this model ends by itself; train one with corpus.documents, or give a length"
        )
    return StreamDecoder(vocabulary, stop, bool(until_end), after)


class StreamDecoder:
    """Decodes ids that come in blocks into text, up to the first stop string that is complete.

    With `until_end` the text also ends where its document ends. Text that may be the beginning of a stop string is held
    back until that is decided. Tokens are compared with those of a stop string as wholes.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str], until_end: bool = False, after: str = "") -> None:
        self.done = False
        self.ended = False  # whether it reached the end of its document
        self.stopped = False  # whether it reached a stop string
        self.obeys = False  # whether `<unk>` is the text's end, as with a rule
        self.obeyed = False  # whether it reached that end
        self.last: int | None = None  # the last id that it took
        self._unknown = vocabulary.unknown
        self._boundary = vocabulary.boundary if until_end else None
        of_tokens = vocabulary.unit == "token"
        self._decoder = _SymbolDecoder() if of_tokens else vocabulary.decoder()
        self._tokens = vocabulary.decoder() if of_tokens else None
        self.follow(after)
        self._stop = [_stop_symbols(vocabulary, each) for each in stop] if of_tokens else stop
        self._held = ""

    def follow(self, text: str) -> None:
        """Begins after a text: with a space if its last token and the first one of the new text need it."""
        self._tokens = self._tokens and self._tokens.begin_after(text)

    def fork(self) -> StreamDecoder:
        """Returns an independent decoder that continues from here."""
        made = copy.copy(self)
        made._decoder = self._decoder.copy()
        made._tokens = self._tokens and self._tokens.copy()
        return made

    def feed(self, ids: Ids) -> tuple[str, int]:
        """Decodes ids (T,). Returns the text that is certain now, and the number of ids that it took.

        It takes all ids unless the text is `done`. The last one taken then completed a stop string, or ended the
        document. The `<unk>` that ends a text with a rule is not taken.
        """
        text, taken = self._feed(ids)
        self.last = int(ids[taken - 1]) if taken else self.last
        return self._as_tokens(text), taken

    def _as_tokens(self, text: str) -> str:
        """Returns the text of a `_SymbolDecoder` as tokens, if that decodes."""
        return text if self._tokens is None else self._tokens.feed(code_points(text).astype(np.int64))

    def _feed(self, ids: Ids) -> tuple[str, int]:
        if self.done:
            return "", 0
        if self.obeys and len(over := np.flatnonzero(ids == self._unknown)):
            self.obeys, inside = False, ids[: over[0]]
            text, taken = self._feed(inside)
            if not self.done:
                self.ended = self.obeyed = True
            return text + self._flush(), taken
        ends = NOWHERE if self._boundary is None else np.flatnonzero(ids == self._boundary)[:1]
        inside = ids[: ends[0]] if len(ends) else ids
        before, held = self._decoder.copy() if self._stop else self._decoder, len(self._held)
        text, stop = self._take(self._decoder.feed(inside))
        if stop is not None:
            return text, _count(before, inside, stop - held)
        if not len(ends):
            return text, len(ids)
        self.ended = True
        return text + self._flush(), len(inside) + 1

    def flush(self) -> str:
        """Ends the text. Returns the part that was held back."""
        return self._as_tokens(self._flush())

    def _flush(self) -> str:
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


class _SymbolDecoder:
    """Decodes each id to the character of that number, so that tokens are found as characters are."""

    def feed(self, ids: Ids) -> str:
        return "".join(map(chr, ids.tolist()))

    def flush(self) -> str:
        return ""

    def copy(self) -> _SymbolDecoder:
        return self


def _stop_symbols(vocabulary: Vocabulary, stop: str) -> str:
    """Returns the ids of a stop string as a `_SymbolDecoder` has them, with a boundary for each separator.

    Raises UsageError for one without a token.
    """
    documents = stop.split(vocabulary.separator) if vocabulary.separator else [stop]
    boundary = "" if vocabulary.boundary is None else chr(vocabulary.boundary)
    ids = boundary.join(_token_symbols(vocabulary, each) for each in documents)
    if stop and not ids:
        raise UsageError(f"stop {stop!r}: give one or more tokens, since this model writes no spaces by themselves")
    return ids


def _token_symbols(vocabulary: Vocabulary, text: str) -> str:
    """Returns the ids of tokens as a `_SymbolDecoder` has them; NEVER for an unknown one, as no text has it."""
    ids = vocabulary.encode(text)
    return "".join(chr(each) if each < vocabulary.size else NEVER for each in ids.tolist())


def _count(decoder: Decoder | _SymbolDecoder, ids: Ids, wanted: int) -> int:
    """Returns the number of ids that a decoder needs to give this many characters."""
    given = 0
    for count in range(len(ids)):
        given += len(decoder.feed(ids[count : count + 1]))
        if given >= wanted:
            return count + 1
    return len(ids)
