"""`scriven novelty`: says what of a text is copied from a model's training text, and what is new."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from scriven.cli.common import (
    Encoding,
    Invalid,
    Json,
    Normalize,
    RunFolder,
    Text,
    Which,
    Whole,
    check_named,
    check_size,
    note,
    progress_bar,
    put_json,
    read_sources,
    visible_line,
)
from scriven.errors import UsageError

if TYPE_CHECKING:
    from scriven.inference.novelty import Novelty, Stretch, TrainingIndex
    from scriven.trained_model import Model

SHOWN = 60  # characters of a stretch that are shown

Files = Annotated[Text, Parameter(help="texts to read: files, folders, - for standard input")]
Stretches = Annotated[
    Whole,
    Parameter(
        name=["--stretches", "-n"],
        help="how many stretches of each text to show: the longest that are copied and do not overlap",
    ),
]


def novelty(
    run: RunFolder,
    /,
    *files: Files,
    stretches: Stretches = 1,
    as_json: Json = False,
    invalid: Invalid = None,
    encoding: Encoding = None,
    normalize: Normalize = None,
    checkpoint: Which = "best",
) -> None:
    """Say what of a text is copied from the training text of a model, and what is new.

    For each text it prints the longest stretch that is in the training text, too, character by character, and where it
    is; then the share of all stretches of 5, 10, 15, ... characters that are not. The text may be one that the model
    wrote, or any other one.

    Texts are prepared as the training text was, such as in lower case. No stretch goes over the end of a document. The
    validation text is not part of the training text.

    The first use for a training text builds an index of it in the cache: 5 bytes for each character, in seconds.
    """
    import numpy as np

    from scriven.corpus.decoding import ReadCounts
    from scriven.corpus.sources import find
    from scriven.inference.novelty import measure_novelty
    from scriven.trained_model import load

    if not files:
        raise UsageError("scriven novelty needs a text to read; name files, or - for standard input")
    if stretches < 0:
        raise UsageError(f"--stretches {stretches}: give 0 or more")
    sources = find(check_named(files)).sources
    model = load(run, which=checkpoint, device="cpu", counts="none")
    index = ready_index(model)
    choices = {"invalid": invalid, "encoding": encoding, "normalize": normalize}
    for number, source in enumerate(sources):
        check_size(source, "novelty")
        name = source.name if len(sources) > 1 else ""
        chunks = read_sources(
            model, [source], ReadCounts(), choices, name, keep_empty=True
        )  # else lines are miscounted
        ids = np.concatenate([np.empty(0, np.int64), *chunks])
        found = measure_novelty(index, model.vocabulary, ids, stretches)
        if as_json:
            put_json({"text": source.name, **found.values()})
        else:
            sys.stdout.write("\n" * (number > 0) + "".join(_lines(source.name, found)))
        sys.stdout.flush()


def ready_index(model: Model) -> TrainingIndex:
    """Returns the index of a model's training text, built now if it is missing, with a bar for progress."""
    from scriven.kernels.encode import usable

    index = model.find_index(build=False)
    if index is None:
        if not usable():
            note("numpy builds the index of the training text, slowly: there is no native code")
        with progress_bar("indexing the training text") as progress:
            index = model.find_index(progress=progress)
    assert index is not None  # it was built
    return index


def _lines(name: str, found: Novelty) -> Iterator[str]:
    """Yields the lines that describe one text."""
    from scriven.inference.novelty import SHOWN_LENGTHS

    shown = visible_line(name)
    yield f"{shown}: {found.characters:,} {found.symbol}s, the longest stretch that is copied has {found.longest:,}\n"
    for each in found.stretches:
        yield f"{shown}:{each.line}:{each.column}: {describe_stretch(each, found.symbol)}\n"
    shares = {length: share for length in SHOWN_LENGTHS if (share := found.share(length)) is not None}
    if shares:
        yield f"{found.symbol + 's in a row':19}" + "".join(f"{length:>8}" for length in shares) + "\n"
        yield "novel, %           " + "".join(f"{100 * share:8.1f}" for share in shares.values()) + "\n"


def describe_stretch(stretch: Stretch, symbol: str = "character") -> str:
    """Returns a stretch in words: its length, its place in the training text, and how it begins."""
    text = stretch.text if len(stretch.text) <= SHOWN else f"{stretch.text[: SHOWN - 3]}..."
    return f"{stretch.length:,} {symbol}s, as in {visible_line(stretch.source)}: {visible_line(text)}"


def describe_copies(found: Iterable[Novelty]) -> str:
    """Returns a sentence on what several texts have copied: the longest stretch, and the novel shares of all."""
    from scriven.inference.novelty import SHOWN_LENGTHS

    texts = list(found)
    symbol = texts[0].symbol if texts else "character"
    stretches = [stretch for each in texts for stretch in each.stretches]
    longest = max(stretches, key=lambda each: each.length, default=None)
    shares = []
    for length in SHOWN_LENGTHS:
        novel, there = (sum(counts) for counts in zip((0, 0), *(each.count(length) for each in texts), strict=True))
        if there:
            shares.append(f"{100 * novel / there:.1f} % of {length}")
    copied = f"the longest copied stretch has {describe_stretch(longest, symbol)}" if longest else "nothing is copied"
    return copied + (f"\nnovel: {', '.join(shares)} {symbol}s in a row" if shares else "")
