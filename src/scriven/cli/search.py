"""The flags of `scriven sample` that search for a text instead of drawing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from scriven.cli.common import Whole, note
from scriven.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scriven.results import WrittenText
    from scriven.session import Model

FEW = 2.0  # effective draws; with fewer, a note says so
BEAM_OPTIONS = ("prompt", "beam", "length", "stop", "until_end", "rule")
WITH_BEAM = ("--beam", "--json", "--stop", "a rule such as --regex", "--count", "--until-end", "--no-until-end")
Beam = Annotated[
    Whole | None,
    Parameter(
        help="find the likeliest texts instead of drawing some, with a beam of this many: always the same ones, with "
        "their log-probabilities. --count says how many of them to show"
    ),
]
Suffix = Annotated[
    str | None,
    Parameter(
        help="text that follows: write what stands between the prompt and this, --length characters at most (60 "
        "unless given). For a model of documents, it ends the document, unless --no-until-end is given"
    ),
]
SuffixFile = Annotated[str | None, Parameter(help="file with the text that follows, read unchanged")]
Draws = Annotated[
    Whole | None,
    Parameter(
        help="with --suffix: how many continuations of the prompt are drawn to find one that the suffix follows; 256 "
        "unless given. With --greedy, how many a beam keeps"
    ),
]
WITHOUT_SUFFIX = ("--stop", "--interactive", "--choose", "--novelty", "--state", "--save-state", "--beam", "--novel")


class SuffixFlags(NamedTuple):
    """What the flags give for the text that follows."""

    suffix: str | None
    file: str | None
    draws: int | None


def check_searches(after: SuffixFlags, beam: int | None, count: int | None, given: Mapping[str, bool]) -> None:
    """Raises UsageError if flags contradict each other, or would do nothing."""
    _check_suffix(*after, given)
    _check_beam(beam, count, given)


def _check_suffix(suffix: str | None, file: str | None, draws: int | None, given: Mapping[str, bool]) -> None:
    """Raises UsageError if flags contradict each other, or do nothing without a suffix."""
    if suffix == "":
        raise UsageError("--suffix is empty, perhaps from an unset variable; give the text that follows, or drop it")
    if suffix and file is not None:
        raise UsageError("--suffix and --suffix-file both give the text that follows; drop one")
    if file in ("", "-"):
        raise UsageError(f"--suffix-file {file!r}: name a file; standard input is for --prompt -")
    if not suffix and file is None:
        if draws is not None:
            raise UsageError("--draws is for the text before a suffix; give --suffix or --suffix-file, or drop it")
        return
    if draws is not None and draws < 1:
        raise UsageError(f"--draws {draws}: give 1 or more")
    if flags := [flag for flag in WITHOUT_SUFFIX if given.get(flag)]:
        raise UsageError(f"{', '.join(flags)} cannot be combined with a suffix, which ends the text; drop one")


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


def _check_beam(beam: int | None, count: int | None, given: Mapping[str, bool]) -> None:
    """Raises UsageError for a beam out of range, and if flags are given that would do nothing."""
    if beam is None:
        return
    if beam < 1:
        raise UsageError(f"--beam {beam}: give 1 or more")
    if flags := [flag for flag, is_given in given.items() if is_given and flag not in WITH_BEAM]:
        raise UsageError(f"--beam finds the likeliest texts and draws nothing, so {', '.join(flags)} would do nothing")
    if count is not None and count > beam:
        raise UsageError(f"--count {count}: a beam of {beam} finds no more than that; raise --beam")


def note_probabilities(texts: Sequence[WrittenText]) -> None:
    """Prints a note with the log-probabilities of texts."""
    note(f"log-probabilities, in nats: {', '.join(f'{text.log_probability:.2f}' for text in texts)}")
