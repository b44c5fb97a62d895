"""The flags of `scriven sample` that search for a text instead of drawing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from scriven.cli.common import Whole, note
from scriven.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scriven.results import WrittenText

BEAM_OPTIONS = ("prompt", "beam", "length", "stop", "until_end", "rule")
WITH_BEAM = ("--json", "--stop", "a rule such as --regex", "--count", "--until-end", "--no-until-end")
Beam = Annotated[
    Whole | None,
    Parameter(
        help="find the likeliest texts instead of drawing some, with a beam of this many: always the same ones, with "
        "their log-probabilities. --count says how many of them to show"
    ),
]


def check_beam(beam: int | None, count: int | None, given: Mapping[str, bool]) -> None:
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
