"""`scriven verify-resume`: proves that a training that is stopped and resumed ends with the same bits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from scriven import recipes
from scriven.cli.common import Json, Row, Text, Whole, check_named, show
from scriven.errors import UsageError
from scriven.settings import validate

if TYPE_CHECKING:
    from scriven.settings import Settings
    from scriven.training.request import Request
    from scriven.training.verify import Verdict

DIFFERENT = 1  # exit code; as for any mistake of ours


def verify_resume(
    what: Annotated[str, Parameter(allow_leading_hyphen=False)],
    /,
    *texts: Text,
    steps: Whole = 10,
    workers: Whole = 0,
    as_json: Json = False,
) -> None:
    """Prove on this machine that k + k steps, with a stop and a resume between them, equal 2k steps, bit for bit.

    The second k steps have one core, where the system allows that: neither a stop nor the cores that are given may
    change anything. Both are trained in a temporary folder, with the model, reader, optimizer and number of processes
    of a run or a recipe; compared are the fingerprint of every step, validation losses, weights, optimizer and
    recurrent state.
    Exit code 0 says that all are the same, 1 that something differs.

    Parameters
    ----------
    what
        a run's folder, or the name of a recipe
    texts
        what a recipe is to read; shakespeare where not given
    steps
        k, the steps before and after the stop
    workers
        processes that share the batch; as many as the run had, or would have, where not given
    """
    for flag, value, least in (("--steps", steps, 1), ("--workers", workers, 0)):
        if value < least:
            raise UsageError(f"{flag} {value}: give {least} or more")
    from scriven.report import visible
    from scriven.training.verify import verify_resume as verified

    verdict, settings = verified(_request(what, tuple(check_named(texts)), workers), steps)
    row = _row(verdict, settings, steps)
    if as_json:
        show([row], "json")
    else:
        sys.stdout.write(visible(_words(verdict, row)))
    if not verdict.equal:
        sys.exit(DIFFERENT)


def _request(what: str, texts: tuple[str, ...], workers: int) -> Request:
    from scriven.runs import open_run
    from scriven.training.request import Request
    from scriven.training.resume import request_from_run

    if (Path(what) / "settings.toml").exists() or what not in recipes.names():
        if texts:
            raise UsageError(f"a run has its own text; drop {' '.join(texts)}, or name a recipe in place of {what}")
        return request_from_run(open_run(what), workers)
    values = recipes.values(what)
    if workers:
        values["training"] = values.get("training", {}) | {"workers": workers}
    return Request(texts or ("shakespeare",), validate(values))


def _row(verdict: Verdict, settings: Settings, steps: int) -> Row:
    model, training = settings.model, settings.training
    return {
        "equal": verdict.equal,
        "steps": f"{steps} + {steps}",
        "model": f"{model.cell} {model.layers}x{model.width}",
        "reader": settings.reader.kind,
        "optimizer": training.optimizer,
        "workers": training.workers,
        "groups": training.groups,
        "threads": training.threads,
        "cores": list(verdict.cores),
        "device": training.device,
        "precision": training.precision,
        "steps_compared": verdict.steps,
        "evaluations_compared": verdict.evaluations,
        "arrays_compared": verdict.arrays,
        "differences": verdict.differences,
    }


def _words(verdict: Verdict, row: Row) -> str:
    how = "{model}, {reader}, {optimizer}, {precision} on {device}, workers: {workers}".format(**row)
    how += f", cores: {' and then '.join(map(str, dict.fromkeys(verdict.cores)))}"
    if not verdict.equal:
        found = "".join(f"  {difference}\n" for difference in verdict.differences)
        return f"NOT the same: {row['steps']} steps are not {verdict.steps} steps ({how}).\n{found}"
    return (
        f"The same, bit for bit: {row['steps']} steps are {verdict.steps} steps ({how}).\n"
        f"Compared: {verdict.steps} steps, {verdict.evaluations} validation losses, {verdict.arrays} arrays of "
        "weights, optimizer and recurrent state.\n"
    )
