"""What a user asks for, and which run that means: a new one, or one to go on with."""

from __future__ import annotations

import math
import re
import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from scriven.corpus.build import Progress
from scriven.corpus.store import Corpus
from scriven.distributed.launch import ProcessInfo
from scriven.errors import InputError, UsageError
from scriven.runs import Checkpoint, Run, open_run, run_corpus
from scriven.runs.folder import SETTINGS_FILE, has_checkpoints
from scriven.settings import BudgetSettings, Settings, check_complete, merge_settings, overlay_settings, validate
from scriven.training.budget import WorkerJob, budget_fraction
from scriven.training.state import TrainingState, load_state

RUNS = Path("runs")
CHANGEABLE = {"budget", "monitor", "device", "precision", "workers", "threads", "evaluations"}
Resume = Literal["last", "auto"] | int | str  # last, auto, a step, or an epoch as epoch:17


@dataclass(frozen=True)
class Request:
    """What a user asks for."""

    texts: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)  # what is not set in it is fitted
    output: Path | None = None  # the run folder; runs/NAME where None
    resume: Resume | None = None  # checkpoint to go on from; auto: from the last one, where there is one
    initial: Path | None = None  # run whose weights to start from
    begun: float = field(default_factory=time.monotonic)  # when the command began
    until: int = 0  # step to stop after, as if asked to; 0: none
    replay: Path | None = None  # run whose steps to do again


def with_absolute_paths(settings: Settings) -> Settings:
    """The same settings with whole paths, so that a corpus can be built again from any folder."""
    files = {name: getattr(settings.corpus, name) for name in ("alphabet", "validation_file")}
    files = {name: str(Path(file).resolve()) for name, file in files.items() if file and Path(file).exists()}
    return validate(merge_settings(settings.explicit(), {"corpus": files})) if files else settings


def resolve_resume(request: Request, place: ProcessInfo | None) -> Request:
    """The request, where it leaves to us whether to go on with a run, and how many workers there are.

    What torchrun starts again goes on from the last checkpoint. Raises UsageError where it could not know of which run.
    """
    if place:
        if request.output is None:
            raise UsageError(
                "started by torchrun, it could not tell this run from others of this text when it is started again; "
                "name the run's folder with -o, on a disk that all machines see"
            )
        asked = request.settings.explicit().get("training", {}).get("workers", place.size)
        if asked != place.size:
            raise UsageError(f"training.workers is {asked}, and {place.size} were started; drop it")
        workers = {"training": {"workers": place.size}}
        request = replace(request, settings=validate(merge_settings(request.settings.explicit(), workers)))
    again = place is not None and place.restarts > 0 and request.resume is None
    if request.resume != "auto" and not again:
        return request
    path = request.output or next(iter(_runs_of(request.texts)), None)
    if path and has_checkpoints(path):
        return replace(request, output=path, resume="auto", initial=None)
    return replace(request, output=path, resume=None)


def request_from_run(run: Run, workers: int = 0, progress: Progress | None = None) -> Request:
    """A request for a training as this run's: the same text, model, reader and optimizer; another number of workers.

    Raises InputError where its corpus is gone and cannot be built again; `progress` is `build`'s.
    """
    values = run.settings.model_dump()
    del values["corpus"]  # which says itself what it is
    given = {"training": {"workers": workers, "groups": max(workers, run.settings.training.groups)}} if workers else {}
    if embedding := run.origin.get("embedding"):
        given = merge_settings(given, {"model": {"embedding": embedding}})
    return Request((run_corpus(run, progress).name,), validate(merge_settings(values, given)))


def expand_replay(request: Request, place: ProcessInfo | None, progress: Progress | None = None) -> Request:
    """The request, where it is to do again what a run did: with that run's text and settings; `progress` is `build`'s.

    Raises UsageError where something else is asked for too, InputError where the run or its corpus is not there.
    """
    if request.replay is None:
        return request
    if request.texts or request.settings.explicit() or request.resume is not None or request.initial:
        raise UsageError(
            f"--replay takes the text and all settings from {request.replay}; drop everything else, but -o and what "
            "is shown"
        )
    run = open_run(request.replay)
    again = request_from_run(run, place.size if place else 0, progress)
    initial = run.origin.get("initial")
    return replace(request, texts=again.texts, settings=again.settings, initial=Path(initial) if initial else None)


def resumed_run(request: Request) -> Run:
    """The run to go on with, its settings changed where that is allowed."""
    if request.initial:
        raise UsageError("--resume goes on with a run and --from starts a new one; give one of them")
    run = open_run(request.output or _newest_folder(request.texts))
    asked = request.settings.explicit()
    embedding = asked.get("model", {}).get("embedding")
    if isinstance(embedding, str) and str(Path(embedding).resolve()) == run.origin.get("embedding"):
        del asked["model"]["embedding"]  # the one that it started with
    for section, values in asked.items():
        for name, value in values.items():
            old = getattr(getattr(run.settings, section), name)
            if value != old and section not in CHANGEABLE and name not in CHANGEABLE:
                raise UsageError(
                    f"{section}.{name} of {run.path} is {old!r} and cannot become {value!r} when it is resumed; "
                    "start a new run, with --from to keep its weights"
                )
    settings = check_complete(validate(overlay_settings(run.settings.model_dump(), asked)))
    if not settings.budget:
        raise UsageError("the budget given is 0; give a larger one, or none to go on with the run's")
    return replace(run, settings=settings)


def check_can_resume(run: Run, checkpoint: Checkpoint, corpus: Corpus, *, finished: bool) -> None:
    """Raises InputError when the corpus is another one, UsageError when the checkpoint has used up the whole budget.

    It may do so where the run `finished` is no mistake.
    """
    if run.origin.get("text") != text_hash(corpus):
        raise InputError(
            f"the text is not the one that {run.path} was trained on, or is read in another way; give that one, or "
            f"start another run from its model with --from {run.path}"
        )
    state = load_state(checkpoint)
    same = state.budget == run.settings.budget.model_dump()
    share = state.progress if same else budget_fraction(WorkerJob(run.settings, ""), state)
    if share >= 1 and not finished and not state.evaluation_pending:
        raise UsageError(
            f"{run.path} has used up its budget at step {state.step:,}; give a larger one to go on, as in "
            f"scriven train --resume -o {shlex.quote(str(run.path))} {_larger_budget(run.settings.budget, state)}"
        )


def _larger_budget(budget: BudgetSettings, state: TrainingState) -> str:
    """The flag of a budget of the same kind that leaves as much to do as was asked for, or done, whichever is more."""
    name, asked = next((name, value) for name, value in budget if value)
    spent = {"steps": state.step, "characters": state.characters, "epochs": state.epochs, "minutes": state.seconds / 60}
    value = 2 * max(asked, spent[name])
    digits = 0 if name in {"steps", "characters"} else max(0, 2 - math.floor(math.log10(value)))
    shown = f"{math.ceil(value * 10**digits) / 10**digits:.{digits}f}"
    return f"--{name} {shown.rstrip('0').rstrip('.') if digits else shown}"


def check_texts_named(request: Request) -> list[str]:
    """The texts as a run's settings keep them: files and folders by their whole paths."""
    known = [str(Path(text).resolve()) if Path(text).exists() else text for text in request.texts]
    return [text.encode("utf-8", "replace").decode() for text in known]  # a file's name may hold anything


def text_hash(corpus: Corpus) -> str:
    """A hash of the text as ids; see `Corpus.text_hash`."""
    return corpus.text_hash


def _name(texts: tuple[str, ...]) -> str:
    """A run's name from its first text's: of the file, or of its folder where that has no letters, as *.txt."""
    first = texts[0] if texts else ""
    path = Path("stdin" if first == "-" else first).absolute()
    names = (re.sub(r"[^\w-]+", "-", name.split(".")[0]).strip("-") for name in (path.name, path.parent.name))
    return next(filter(None, names), "run")


def free_folder(text: str) -> Path:
    """runs/NAME, or the first runs/NAME-2, -3, ... that is not there yet."""
    first, number = named_folder(text), 1
    while (path := first if number == 1 else first.with_name(f"{first.name}-{number}")).exists():
        number += 1
    return path


def named_folder(text: str) -> Path:
    """runs/NAME, whether it is there or not."""
    return RUNS / _name((text,))


def _newest_folder(texts: tuple[str, ...]) -> Path:
    """The run of this text, or of any where none is named, that was written to last."""
    found = _runs_of(texts)
    if not found:
        raise InputError(f"there is no run of {' '.join(texts) or 'any text'} in {RUNS} to resume; name it with -o")
    return found[0]


def _runs_of(texts: tuple[str, ...]) -> list[Path]:
    """The runs of this text, or of any where none is named, the one that was written to last first."""
    named = re.compile(re.escape(_name(texts)) + r"(-\d+)?" if texts else ".*")
    found = [path for path in RUNS.glob("*") if (path / SETTINGS_FILE).is_file() and named.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path / SETTINGS_FILE).stat().st_mtime, reverse=True)
