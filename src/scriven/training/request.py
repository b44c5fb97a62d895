"""What a user requests, and the run that is prepared for it, new or resumed."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from scriven import starts
from scriven.corpus.build import Progress, open_or_build
from scriven.corpus.store import Corpus
from scriven.distributed.launch import ProcessInfo
from scriven.distributed.rendezvous import WorkerJob
from scriven.errors import UsageError
from scriven.runs import Checkpoint, Run
from scriven.runs.folder import RUNS, SETTINGS_FILE, has_checkpoints, locate_run
from scriven.runs.journal import ReplayLog
from scriven.settings import CorpusSettings, Settings
from scriven.settings_values import merge_settings, validate
from scriven.training.auto_settings import readable_seconds
from scriven.training.workload import Workload

Resume = Literal["last", "auto"] | int | str  # last, auto, a step, or an epoch as epoch:17


@dataclass(frozen=True)
class Request:
    """What a user requests."""

    texts: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)  # the others are chosen automatically
    output: Path | None = None  # the run folder; runs/NAME by default
    resume: Resume | None = None  # checkpoint to resume from; auto: the last one, if there is one
    initial: str | Path | None = None  # none, auto, a start, or a run whose weights to start from; None: the default
    begun: float = field(default_factory=time.monotonic)  # when the command began
    until: int = 0  # step to stop after; 0 for none
    replay: Path | None = None  # run whose steps are repeated


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to train, new or resumed."""

    run: Run  # its settings are resolved
    corpus: Corpus
    workload: Workload
    notes: tuple[str, ...]  # sentences for the user
    details: tuple[str, ...] = ()  # those of the notes that only some users want to know
    checkpoint: Checkpoint | None = None  # to resume from
    best_step: int = 0  # of the best checkpoint, if it resumes
    initial: str = ""  # run folder, or reference of a start, whose weights a new run starts with
    embedding: str = ""  # file or run folder of the embeddings that a new run starts with
    replay: ReplayLog | None = None  # of the run whose steps are repeated

    @property
    def start(self) -> str:
        """What a new run starts from, in words."""
        if starts.is_reference(self.initial):
            return f"the start {starts.from_reference(self.initial).name}"
        return self.initial or "random weights"

    @property
    def settings(self) -> Settings:
        """All settings."""
        return self.run.settings

    def make_job(self, request: Request) -> WorkerJob:
        """Returns the job for all workers."""
        return WorkerJob(
            settings=self.settings,
            corpus=self.corpus.name,
            resume=str(self.checkpoint.path) if self.checkpoint else "",
            best=self.best_step,
            initial=self.initial,
            embedding=self.embedding,
            until=request.until,
            replay=self.replay,
            readable_seconds=readable_seconds(
                self.corpus.training.characters, self.workload, self.settings.training.workers
            ),
            used_seconds=time.monotonic() - request.begun,
        )


def open_corpus(texts: tuple[str, ...], settings: CorpusSettings, progress: Progress) -> Corpus:
    """Opens the corpus of the texts: a built one, one in the cache, or one that it builds now."""
    if not texts:
        raise UsageError("no text to train on; name a file, a folder, - for standard input, python or shakespeare")
    return open_or_build(texts, settings, progress)


def with_absolute_paths(settings: Settings) -> Settings:
    """Returns the settings with absolute paths, so that a corpus can be built again from any folder."""
    files = {name: getattr(settings.corpus, name) for name in ("alphabet", "validation_file")}
    files = {name: str(Path(file).resolve()) for name, file in files.items() if file and Path(file).exists()}
    return validate(merge_settings(settings.explicit(), {"corpus": files})) if files else settings


def resolve_resume(request: Request, place: ProcessInfo | None) -> Request:
    """Returns the request with `resume` and the number of workers decided.

    A run that torchrun restarts is resumed from its last checkpoint. Raises UsageError if the run is not named.
    """
    if place:
        if request.output is None:
            raise UsageError(
                "torchrun must find this run again after a restart; name the run's folder with -o, on a disk that all "
                "machines can see"
            )
        asked = request.settings.explicit().get("training", {}).get("workers", place.size)
        if asked != place.size:
            raise UsageError(f"training.workers is {asked}, but the number of processes is {place.size}; drop the flag")
        workers = {"training": {"workers": place.size}}
        request = replace(request, settings=validate(merge_settings(request.settings.explicit(), workers)))
    again = place is not None and place.restarts > 0 and request.resume is None
    if request.resume != "auto" and not again:
        return request
    named = request.output and (locate_run(request.output) or request.output)
    path = named or next(iter(find_runs(request.texts)), None)
    if path and has_checkpoints(path):
        return replace(request, output=path, resume="auto", initial=None)
    return replace(request, output=path, resume=None)


def check_texts_named(request: Request) -> list[str]:
    """Returns the texts as a run's settings keep them: files and folders by their absolute paths."""
    known = [str(Path(text).resolve()) if Path(text).exists() else text for text in request.texts]
    return [text.encode("utf-8", "replace").decode() for text in known]  # a file's name may have any bytes


def _name(texts: tuple[str, ...]) -> str:
    """Returns a run's name: its first text's file name, or the folder's name if that has no letters, as in *.txt."""
    first = texts[0] if texts else ""
    path = Path("stdin" if first == "-" else first).absolute()
    names = (re.sub(r"[^\w-]+", "-", name.split(".")[0]).strip("-") for name in (path.name, path.parent.name))
    return next(filter(None, names), "run")


def free_folder(text: str) -> Path:
    """Returns runs/NAME, or the first of runs/NAME-2, -3, ... that does not exist yet."""
    first, number = named_folder(text), 1
    while (path := first if number == 1 else first.with_name(f"{first.name}-{number}")).exists():
        number += 1
    return path


def named_folder(text: str) -> Path:
    """Returns runs/NAME, which may exist or not."""
    return RUNS / _name((text,))


def find_runs(texts: tuple[str, ...]) -> list[Path]:
    """Returns the runs of this text, or of any text if `texts` is empty, the newest first."""
    named = re.compile(re.escape(_name(texts)) + r"(-\d+)?" if texts else ".*")
    found = [path for path in RUNS.glob("*") if (path / SETTINGS_FILE).is_file() and named.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path / SETTINGS_FILE).stat().st_mtime, reverse=True)
