"""`scriven doctor`: whether a run's folder, or a corpus, is whole."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from scriven.cli.common import Json, Switch, put_json, visible_line
from scriven.errors import InputError

if TYPE_CHECKING:
    from scriven.runs.doctor import Finding

PARTS_NAMED = 3  # at most, of those that are bad


def doctor(
    folder: Annotated[str, Parameter(help="folder of a run, or of a corpus")],
    /,
    *,
    corpus: Switch = False,
    as_json: Json = False,
) -> None:
    """Look whether a run is whole: settings, vocabulary, index, and every checkpoint's sizes, hashes, shapes, numbers.

    Each model is run once, to see whether it overflows though its weights are finite.
    Nothing is changed and no code of the folder is run, so that it is safe to look at what came from others.
    Ends with 3 where anything is wrong. Damage of one checkpoint leaves the others usable: --checkpoint and --resume
    take their steps, and --resume alone goes on from the newest that is whole.

    Parameters
    ----------
    corpus
        read the corpus that the run was trained on too, all of it
    """
    from scriven.runs.doctor import check_is_run_or_corpus, examine

    check_is_run_or_corpus(Path(folder))
    bad: list[Finding] = []
    for finding in examine(Path(folder), corpus=corpus):
        _print_finding(finding, as_json)
        if finding.state == "bad":
            bad.append(finding)
    if bad:
        more = f" and {len(bad) - PARTS_NAMED:,} more" if len(bad) > PARTS_NAMED else ""
        parts = "; ".join(finding.part for finding in bad[:PARTS_NAMED])
        raise InputError(f"{folder} is not whole; what is bad, as said above: {parts}{more}")


def _print_finding(finding: Finding, as_json: bool) -> None:
    if as_json:
        put_json(dataclasses.asdict(finding))
    else:
        sys.stdout.write(visible_line(f"{finding.state:6}{finding.part}: {finding.text}") + "\n")
