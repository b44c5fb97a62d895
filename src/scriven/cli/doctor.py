"""`scriven doctor`: checks a run's folder, or a corpus, for damage."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from scriven.cli.common import Json, Switch, put_json, visible_line
from scriven.errors import InputError

if TYPE_CHECKING:
    from scriven.runs.doctor import Finding

PARTS_NAMED = 3  # damaged parts that the error names


def doctor(
    folder: Annotated[str, Parameter(help="folder of a run or of a corpus")],
    /,
    *,
    corpus: Switch = False,
    as_json: Json = False,
) -> None:
    """Check a run or corpus for damage.

    In a run it checks the settings, the vocabulary, the index, and the sizes, hashes, shapes and numbers of each
    checkpoint. It runs each model once, to see whether finite weights overflow. It changes nothing and runs no code
    from the folder, so files from strangers are safe to check. The exit code is 3 if anything is wrong. Logs
    that are damaged are noted only, as no model needs them.

    If one checkpoint is damaged, the others still work: name their steps with --checkpoint or --resume. Without a
    step, --resume takes the newest undamaged one.

    Parameters
    ----------
    corpus
        also read the whole corpus that the run was trained on
    """
    from scriven.runs.doctor import examine, find_run_or_corpus

    found = find_run_or_corpus(folder)
    bad: list[Finding] = []
    for finding in examine(found, corpus=corpus):
        _print_finding(finding, as_json)
        if finding.state == "bad":
            bad.append(finding)
    if bad:
        more = f" and {len(bad) - PARTS_NAMED:,} more" if len(bad) > PARTS_NAMED else ""
        parts = "; ".join(finding.part for finding in bad[:PARTS_NAMED])
        raise InputError(f"{folder} is damaged; details are above: {parts}{more}")


def _print_finding(finding: Finding, as_json: bool) -> None:
    if as_json:
        put_json(dataclasses.asdict(finding))
    else:
        sys.stdout.write(visible_line(f"{finding.state:6}{finding.part}: {finding.text}") + "\n")
