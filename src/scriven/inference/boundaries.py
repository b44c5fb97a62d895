"""Where the units of a text end: lines, documents, words, or stretches between the user's own separators.

A rule reads ids piece by piece. A word is a run of characters between white space. The white space after it belongs to
it, or the one before it (`spaces`). Since a word that includes the space after it is known to have ended, the
probabilities of all words that may come next add up to 1; see docs/surprisal.md.

Grapheme clusters are never cut: a mark, a joiner or a modifier belongs to what it follows, as in UAX #29 of Unicode.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from scriven.arrays import Bools, Ids
from scriven.errors import InputError, UsageError
from scriven.vocabulary import Vocabulary, code_points, utf8_lengths

Spaces = Literal["after", "before"]
Punctuation = Literal["with", "apart"]
Kinds = npt.NDArray[np.int64]  # (C,) flags of characters

SPACE, LETTER, PUNCTUATION, BOUNDARY = 1, 2, 4, 8  # one of them for each character
CLASS = 15
JOINS, ZERO_WIDTH_JOINER, PREPENDED, CONTROL, INNER, JAMO, REGIONAL = 16, 32, 64, 128, 256, 512, 1024
RETURN, FEED = 2048, 4096
# What stays inside a word between two letters or digits: don't, well-known, 3.14, 10:30, snake_case.
INSIDE = frozenset("'\u2019-\u2010\u2011._\u00b7:,")
# Characters besides the marks (M) that Unicode's grapheme clusters have after others, and those they have before.
JOINED = frozenset([0x200C, 0x200D, 0x0E33, 0x0EB3, 0xFF9E, 0xFF9F, *range(0x1F3FB, 0x1F400), *range(0xE0020, 0xE0080)])
JAMOS = frozenset([*range(0x1160, 0x1200), *range(0xD7B0, 0xD7FC)])  # vowels and finals, which continue a syllable
REGIONS = range(0x1F1E6, 0x1F200)  # two of them are a flag
PREPENDS = frozenset(
    [*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0xD4E, 0x110BD, 0x110CD, 0x111C2, 0x111C3, 0x113D1]
).union([0x1193F, 0x11941, 0x11A3A, *range(0x11A84, 0x11A8A), 0x11D46, 0x11F02])


class Characters(NamedTuple):
    """Characters: their flags (C,), which ones belong to the cluster before them (C,), and their clusters' class (C,).

    `places` (C + 1,) are those in the ids where each begins, and where the last one ends.
    """

    kinds: Kinds
    joined: Bools
    classes: Kinds
    places: Ids


class UnitRule(Protocol):
    """Finds the ends of units in ids that come piece by piece."""

    def ends(self, ids: Ids, *, last: bool) -> tuple[Ids, int]:
        """Returns the places (M,) of the ids (T,) that follow a unit's end, and how many ids are decided.

        The next call begins with the ids that are not decided. All are, if these are the `last` ones.
        """

    def trim(self, text: str) -> str:
        """Returns the text of a unit without what only ends it."""


class LineRule:
    """Ends lines; of a text of documents, documents. A line feed, a carriage return or both end a line."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._boundary = vocabulary.boundary
        self._feed, self._carriage = (int(vocabulary.encode(end)[0]) for end in "\n\r")

    def ends(self, ids: Ids, *, last: bool) -> tuple[Ids, int]:
        """Returns the places after line ends. A carriage return waits for a line feed."""
        if self._boundary is not None:
            return np.flatnonzero(ids == self._boundary) + 1, len(ids)
        after = np.append(ids[1:], self._feed)  # (T,)
        found = np.flatnonzero((ids == self._feed) | ((ids == self._carriage) & (after != self._feed))) + 1
        waits = not last and ids.size > 0 and int(ids[-1]) == self._carriage
        return found, len(ids) - waits

    def trim(self, text: str) -> str:
        """Returns a line without its end."""
        return text.removesuffix("\n").removesuffix("\r")


class DocumentRule(LineRule):
    """Ends documents; a text without documents is one of them."""

    def ends(self, ids: Ids, *, last: bool) -> tuple[Ids, int]:
        """Returns the places after boundaries."""
        return (super().ends(ids, last=last)) if self._boundary is not None else (np.empty(0, np.int64), len(ids))


class SymbolRule:
    """Ends a unit after every id."""

    def ends(self, ids: Ids, *, last: bool) -> tuple[Ids, int]:
        """Returns the places after all ids."""
        return np.arange(len(ids)) + 1, len(ids)

    def trim(self, text: str) -> str:
        """Returns the text."""
        return text


class TokenRule:
    """Ends a unit after every token, and after the line ends that follow it or precede it."""

    def __init__(self, vocabulary: Vocabulary, spaces: Spaces = "after") -> None:
        self._clusters, self._spaces = Clusters(vocabulary), spaces

    def ends(self, ids: Ids, *, last: bool) -> tuple[Ids, int]:
        """Returns the places of the first ids of units."""
        found, first = self._clusters.find(ids, last=last), self._clusters.before
        before = np.concatenate(([first], found.classes[:-1]))[: len(ids)]
        self._clusters.pass_over(found, len(ids))
        begins = found.classes == LETTER if self._spaces == "after" else before == LETTER
        begins = ((begins & (found.classes != BOUNDARY)) | (before == BOUNDARY)) & (before > 0)
        return np.flatnonzero(begins), len(ids)

    def trim(self, text: str) -> str:
        """Returns a token without line ends."""
        return text.strip("\n")


class Clusters:
    """Finds the grapheme clusters of ids that come piece by piece, and the class of each character."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._before = 0  # the flags of the character before, with the class of its cluster; 0 at the start
        self._regional = 0  # how many regional indicators stand just before
        points = np.array(vocabulary.symbols if vocabulary.unit == "character" else (), np.int64)
        extra = [] if vocabulary.boundary is None else [BOUNDARY]
        tokens = [LETTER] * len(vocabulary.tokens)
        self._known = np.concatenate((_kinds(points), np.array([*tokens, *extra, LETTER], np.int64)))  # (V,)

    @property
    def before(self) -> int:
        """The class of the character before the next one; 0 at the start of the text."""
        return self._before & CLASS

    def find(self, ids: Ids, *, last: bool) -> Characters:
        """Returns the characters of ids (T,). An incomplete one at the end is left out, unless these are the `last`."""
        kinds, places = self._kinds_of(ids, last=last)
        before = np.concatenate(([self._before], kinds[:-1]))[: len(kinds)]
        joined = ((kinds & JOINS) > 0) & ((before & (CONTROL | BOUNDARY)) == 0) & (before > 0)
        joined |= ((kinds & FEED) > 0) & ((before & RETURN) > 0)
        joined |= ((kinds & REGIONAL) > 0) & (self._regional_runs(kinds) % 2 == 0)
        carried = np.concatenate(([self.before], self._fill(kinds, joined)[:-1]))[: len(kinds)]
        plain = (kinds & (CONTROL | BOUNDARY)) == 0
        joined |= plain & ((before & ZERO_WIDTH_JOINER) > 0) & ((carried & (LETTER | PUNCTUATION)) > 0)
        joined |= ((kinds & JAMO) > 0) & (carried == LETTER)
        joined |= plain & ((before & PREPENDED) > 0)
        return Characters(kinds, joined, self._fill(kinds, joined), places)

    def pass_over(self, found: Characters, count: int) -> None:
        """Begins after the first `count` of the characters that were found."""
        if count:
            self._regional = int(self._regional_runs(found.kinds)[count - 1])
            self._before = int(found.kinds[count - 1] & ~CLASS | found.classes[count - 1])

    def _kinds_of(self, ids: Ids, *, last: bool) -> tuple[Kinds, Ids]:
        """Returns the flags (C,) of the characters of ids (T,), and the places (C + 1,) of `Characters`."""
        if self._vocabulary.unit == "token":
            kinds = self._known[self._vocabulary.clamp(ids)]
            kinds[ids == self._vocabulary.line_end] = SPACE | CONTROL  # also if the vocabulary lacks it
            return kinds, np.arange(len(ids) + 1)
        if self._vocabulary.unit == "character":
            kinds, unseen = self._known[self._vocabulary.clamp(ids)], self._vocabulary.unseen(ids)
            if unseen.any():
                kinds[unseen] = _kinds(ids[unseen] - self._vocabulary.size)
            return kinds, np.arange(len(ids) + 1)
        data = np.minimum(ids, 0xFF).astype(np.uint8).tobytes()  # boundaries become 0xFF, which is never in UTF-8
        text, _ = codecs.utf_8_decode(data, "surrogateescape", last)
        points = code_points(text).astype(np.int64)
        places = np.concatenate(([0], utf8_lengths(points).cumsum()))
        kinds = _kinds(points)
        kinds[ids[places[:-1]] == self._vocabulary.boundary] = BOUNDARY
        return kinds, places

    def _regional_runs(self, kinds: Kinds) -> Ids:
        """Returns for each character (C,) how many regional indicators there are in a row up to it."""
        places = np.arange(len(kinds))
        others = np.maximum.accumulate(np.where((kinds & REGIONAL) > 0, -1 - self._regional, places))
        return places - others

    def _fill(self, kinds: Kinds, joined: Bools) -> Kinds:
        """Returns the class (C,) of each character; one that is joined has the class of the one before it."""
        bases = np.maximum.accumulate(np.where(joined, -1, np.arange(len(kinds))))
        return np.where(bases < 0, self.before, kinds[bases] & CLASS) if len(kinds) else kinds


class SeparatorRule:
    """Ends units at a separator that is written into the text, and at line ends. The model does not read separators."""

    def __init__(self, vocabulary: Vocabulary, separator: str) -> None:
        """Raises UsageError for a separator that is not one character, or one byte for a model of bytes."""
        ids = vocabulary.encode(separator)
        if len(ids) != 1 or separator in "\r\n":
            kinds = {"byte": "an ASCII character, since this model reads bytes", "token": "one token"}
            kind = kinds.get(vocabulary.unit, "one character")
            raise UsageError(f"--separator {separator!r}: give {kind}, such as '|', and no line end")
        self._id, self._shown = int(ids[0]), separator
        self._lines, self._clusters = LineRule(vocabulary), Clusters(vocabulary)
        self._places, self._read, self._decided = deque[int](), 0, 0  # of separators; ids read, ids decided

    def remove_from(self, chunks: Iterable[Ids]) -> Iterator[Ids]:
        """Yields the text without its separators, and keeps their places."""
        for chunk in chunks:
            found = np.flatnonzero(chunk == self._id)
            self._places.extend((self._read + found - np.arange(len(found))).tolist())
            self._read += len(chunk) - len(found)
            yield np.delete(chunk, found)

    def ends(self, ids: Ids, *, last: bool) -> tuple[Ids, int]:
        """Returns the places of separators and line ends.

        Raises InputError at a separator that cuts a grapheme cluster.
        """
        characters = self._clusters.find(ids, last=last)
        found, decided = self._lines.ends(ids, last=last)
        count = int(np.searchsorted(characters.places, decided, "right")) - 1
        decided = int(characters.places[count])
        own = list[int]()
        while self._places and self._places[0] < self._decided + decided:
            own.append(self._places.popleft() - self._decided)
        self._check(characters, count, np.array(own, np.int64))
        self._clusters.pass_over(characters, count)
        self._decided += decided
        return np.union1d(found[found <= decided], np.array(own, np.int64)), decided

    def _check(self, characters: Characters, count: int, places: Ids) -> None:
        firsts = characters.places[:count][~characters.joined[:count]]
        inside = places[~np.isin(places, firsts)]
        if inside.size:
            raise InputError(
                f"the separator {self._shown!r} after character {self._decided + int(inside[0]):,} of the text cuts "
                "what is read as one character, such as a letter and its accent; put the separator before or after it"
            )

    def trim(self, text: str) -> str:
        """Returns a unit without a line end."""
        return self._lines.trim(text)


class WordRule:
    """Ends words by their white space; with punctuation as a part of words, or apart from them."""

    def __init__(self, vocabulary: Vocabulary, spaces: Spaces = "after", punctuation: Punctuation = "with") -> None:
        self._clusters = Clusters(vocabulary)
        self._spaces, self._apart = spaces, punctuation == "apart"

    def ends(self, ids: Ids, *, last: bool) -> tuple[Ids, int]:
        """Returns the places of the first ids of words. An apostrophe and the like wait for the next character."""
        found = self._clusters.find(ids, last=last)
        begins, decided = self._begins(found, last=last)
        self._clusters.pass_over(found, decided)
        return found.places[np.flatnonzero(begins[:decided])], int(found.places[decided])

    def trim(self, text: str) -> str:
        """Returns a word without white space."""
        return text.strip()

    def _begins(self, found: Characters, *, last: bool) -> tuple[Bools, int]:
        """Returns which characters (C,) begin words, and how many are decided."""
        classes, first = found.classes, self._clusters.before
        before = np.concatenate(([first], classes[:-1]))[: len(classes)]
        spaced = (before, classes) if self._spaces == "after" else (classes, before)
        begins = (spaced[0] == SPACE) & (spaced[1] != SPACE)
        decided = len(classes)
        if self._apart:
            words = LETTER | PUNCTUATION
            begins |= (before != classes) & ((before & words) > 0) & ((classes & words) > 0)
            bases = np.flatnonzero(~found.joined)
            row = np.concatenate(([first], classes[bases], [0]))  # of clusters, with those around them
            signs = (found.kinds[bases] & INNER) > 0
            inner = np.flatnonzero(signs & (row[:-2] == LETTER) & (row[2:] == LETTER))
            begins[bases[inner]] = begins[bases[inner + 1]] = False
            if not last and bases.size and signs[-1] and row[-3] == LETTER:
                decided = int(bases[-1])
        begins = ((begins & (classes != BOUNDARY)) | (before == BOUNDARY)) & (before > 0) & ~found.joined
        return begins, decided


def make_rule(
    vocabulary: Vocabulary,
    by: str,
    *,
    spaces: Spaces = "after",
    punctuation: Punctuation = "with",
    separator: str = "",
) -> UnitRule:
    """Returns the rule of a new text for characters, words, lines or documents.

    A word of a model of tokens is a token. Raises UsageError as `SeparatorRule` does, and for punctuation apart from
    tokens.
    """
    if by == "character":
        return SymbolRule()
    if by != "word":
        return LineRule(vocabulary) if by == "line" else DocumentRule(vocabulary)
    if vocabulary.unit == "token" and punctuation == "apart":
        raise UsageError("punctuation apart: a model of tokens never divides a token; leave it out")
    if vocabulary.unit == "token" and not separator:
        return TokenRule(vocabulary, spaces)
    return SeparatorRule(vocabulary, separator) if separator else WordRule(vocabulary, spaces, punctuation)


def _kinds(points: Ids) -> Kinds:
    """Returns the flags (C,) of code points (C,)."""
    distinct, places = np.unique(points, return_inverse=True)
    return np.array([_kind(point) for point in distinct.tolist()], np.int64)[places]


@lru_cache(1 << 16)
def _kind(point: int) -> int:
    """Returns the flags of a code point: its class, and how it is joined to others."""
    character = chr(point)
    category = unicodedata.category(character)
    flags = CONTROL * (category in {"Cc", "Zl", "Zp"}) | PREPENDED * (point in PREPENDS)
    if character.isspace():
        return flags | SPACE | RETURN * (character == "\r") | FEED * (character == "\n")
    flags |= ZERO_WIDTH_JOINER * (point == 0x200D) | INNER * (character in INSIDE)
    flags |= JOINS * (category[0] == "M" or point in JOINED)
    flags |= JAMO * (point in JAMOS) | REGIONAL * (point in REGIONS)
    return flags | (PUNCTUATION if category[0] in "PS" and not flags & JOINS else LETTER)
