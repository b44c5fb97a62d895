"""Shows texts that `scriven sample` writes: as they come, one below the other, or as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from scriven.cli.common import note, put_json
from scriven.cli.novelty import describe_copies

if TYPE_CHECKING:
    from scriven.results import WrittenText
    from scriven.trained_model import Model

SEPARATOR = "-" * 16  # printed between two texts
FEW = 2.0  # effective draws; with fewer, a note says so
Piece = TypeVar("Piece", bound=str)


def find_middles(model: Model, asked: Mapping[str, Any], count: int) -> Iterator[WrittenText]:
    """Yields `count` middles, as `asked`; the first has the given seed, the next seed + 1, and so on."""
    for n in range(count):
        middle = model.infill(**{**asked, "seed": asked["seed"] + n})
        if middle.effective_draws is not None and middle.effective_draws < FEW:
            note(
                f"{middle.effective_draws:.1f} effective draws of {asked['draws']:,}: few continuations lead to the "
                "suffix, and more --draws may find a better one"
            )
        yield middle


def _keep(pieces: Iterable[Piece], kept: list[Piece]) -> Iterator[Piece]:
    """Yields the pieces, and keeps them."""
    for piece in pieces:
        kept.append(piece)
        yield piece


def _note_probabilities(texts: Sequence[WrittenText]) -> None:
    """Prints a note with the log-probabilities of texts."""
    note(f"log-probabilities, in nats: {', '.join(f'{text.log_probability:.2f}' for text in texts)}")


def _report_copies(model: Model, texts: Iterable[str]) -> None:
    """Prints what of some texts is copied from the training text."""
    sys.stderr.write(f"{describe_copies([model.novelty(text) for text in texts])}\n")


def put_texts(
    model: Model,
    texts: Iterable[WrittenText],
    asked: dict[str, Any],
    known: list[bool] | None = None,
    *,
    copied: bool,
    as_json: bool,
) -> None:
    """Prints several texts as they come, with the log-probabilities of those that a beam found.

    With `copied`, it says what of them is copied: of each as JSON, or of all together at the end.
    """
    if as_json:
        _put_json(texts, asked, known, model if copied else None)
        return
    one_line = asked["until_end"] and model.settings.corpus.documents == "lines"
    shown: list[WrittenText] = []
    _show_all(_keep(texts, shown), asked["prompt"], asked.get("suffix", ""), one_line=one_line)
    if "beam" in asked:
        _note_probabilities(shown)
    if copied:
        _report_copies(model, shown)


def _show_all(texts: Iterable[WrittenText], prompt: str, suffix: str, *, one_line: bool) -> None:
    """Prints several texts, each on a line of its own or with a separator between them."""
    for n, written in enumerate(texts):
        _print_text("" if one_line or n == 0 else SEPARATOR + "\n")
        show_text(prompt, iter([written, suffix]))


def _put_json(
    texts: Iterable[WrittenText], asked: dict[str, Any], known: list[bool] | None, copying: Model | None
) -> None:
    """Prints each text as JSON, with all that is needed to write it again, and what it copies, if a model says that."""
    for n, written in enumerate(texts):
        rule = {"rule": repr(asked["rule"])} if "rule" in asked else {}
        row = {**asked, **rule, "text": written, "ended": written.ended}
        row |= {"seed": asked["seed"] + n} if "seed" in asked else {"log_probability": written.log_probability}
        row |= {"effective_draws": written.effective_draws} if "suffix" in asked else {}
        copied = {"copied": copying.novelty(written).values()} if copying else {}
        put_json(row | ({"known": known[n]} if known else {}) | copied)
        sys.stdout.flush()


def show_text(prompt: str, pieces: Iterator[str], copying: Model | None = None) -> bool:
    """Prints a text as it comes, and a line end if it lacks one. Returns whether it had one.

    With a model, a line on standard error says what it copies of its training text.
    """
    safe = _visible if sys.stdout.isatty() else str
    last, written = prompt, list[str]()
    _print_text(_emphasize(safe(prompt)) if prompt and _colours() else safe(prompt))
    for piece in pieces:
        _print_text(safe(piece))
        last = piece or last
        if copying:
            written.append(piece)
    ended = last.endswith("\n")
    if not ended:
        _print_text("\n")
    if copying:
        _report_copies(copying, ["".join(written)])
    return ended


def _colours() -> bool:
    """Whether standard output is a terminal with text styles, and nobody turned them off."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or os.name == "nt"
    return sys.stdout.isatty() and not plain


def _emphasize(text: str) -> str:
    """Returns text in bold, which sets a prompt apart from what the model wrote."""
    return f"\x1b[1m{text}\x1b[22m"


def _print_text(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _visible(text: str) -> str:
    """Returns text without control characters."""
    from scriven.report import visible

    return "\t".join(map(visible, text.split("\t")))
