"""`scriven verify-resume`: proves that a training that is stopped and resumed ends with the same bits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from scriven import recipes
from scriven.cli.common import Json, Row, Text, Whole, check_named, show
from scriven.errors import UsageError
from scriven.settings_values import validate

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
    """Check on this machine that k steps, a stop and k resumed steps give the same bits as 2k steps without a stop.

    It trains twice in a temporary folder, with the model, reader, optimizer and number of processes of a run or a
    recipe. The resumed half runs on one core if the system allows it, since cores must not change results either.
    It compares every step's fingerprint, the validation losses, the weights, the optimizer and the recurrent state.
    The exit code is 0 if all are identical, and 1 if anything differs.

    Parameters
    ----------
    what
        folder of a run, or name of a recipe
    texts
        texts to train a recipe on; shakespeare unless given
    steps
        k, the number of steps before and after the stop
    workers
        processes that share each batch; unless given, as many as the run has
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
            raise UsageError(f"a run has its own text; drop {' '.join(texts)}, or name a recipe instead of {what}")
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
        "model": model.name,
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
        return f"NOT identical: {row['steps']} steps differ from {verdict.steps} steps ({how}).\n{found}"
    return (
        f"Identical, bit for bit: {row['steps']} steps equal {verdict.steps} steps ({how}).\n"
        f"Compared: {verdict.steps} steps, {verdict.evaluations} validation losses, {verdict.arrays} arrays of "
        "weights, optimizer and recurrent state.\n"
    )
