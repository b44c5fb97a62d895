"""Whether the line ends of a text are those that a model knows: a common reason for a bad score, and easily mended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from scriven.cli.rows import note
from scriven.vocabulary import Ids, Vocabulary

if TYPE_CHECKING:
    from scriven.corpus.line_ends import LineEnds

KINDS = {(True, False): "LF", (False, True): "CR", (True, True): "CR LF"}  # by whether there are LF and CR


def noticed(vocabulary: Vocabulary, chunks: Iterable[Ids], line_ends: LineEnds, about: str = "") -> Iterator[Ids]:
    """The chunks of a text, any; after the last one a note on standard error, where its line ends are of another kind.

    `line_ends` are counted while the chunks are made, `about` begins the note. A model of bytes knows all line ends,
    whatever it was trained on: of that nothing is said.
    """
    yield from chunks
    known = ord("\n") in vocabulary.symbols, ord("\r") in vocabulary.symbols
    found = line_ends.feeds > 0, line_ends.returns > 0
    if vocabulary.unit == "byte" or found == known or not (any(found) and any(known)):
        return
    note(
        f"{about}the text has {line_ends}, and the model was trained on {KINDS[known]}; convert them for a score of "
        "the text alone"
    )
