"""Whether the line ends of a text are those that a model knows: a common reason for a bad score, and easily mended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from scriven.cli.rows import note
from scriven.vocabulary import Ids, Vocabulary

RETURN, FEED = ord("\r"), ord("\n")


def noticed(vocabulary: Vocabulary, chunks: Iterable[Ids]) -> Iterator[Ids]:
    """The chunks of a text, any; after the last one a note on standard error, where its line ends are of another kind.

    A model of bytes knows all of them, whatever it was trained on: of that nothing is said.
    """
    feed, back = (int(vocabulary.encode(end)[0]) for end in "\n\r")
    has_feed = has_return = False
    for ids in chunks:
        has_return = has_return or bool((ids == back).any())
        has_feed = has_feed or bool((ids == feed).any())
        yield ids
    knows_return = RETURN in vocabulary.symbols
    knows_feed = FEED in vocabulary.symbols
    if vocabulary.unit == "byte" or has_return == knows_return or not (has_feed and knows_feed):
        return
    has, knows = ("CR LF", "LF") if has_return else ("LF", "CR LF")
    note(
        f"the text has {has} line ends, and the model was trained on {knows}; convert them for a score of the text "
        "alone"
    )
