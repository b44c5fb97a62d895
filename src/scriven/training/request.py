"""What a user asks for, and which run that means: a new one, or one to go on with."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from scriven.corpus.build import Progress, build
from scriven.corpus.store import Corpus, is_corpus
from scriven.distributed.launch import ProcessInfo
from scriven.distributed.rendezvous import WorkerJob
from scriven.errors import UsageError
from scriven.runs import Checkpoint, Run
from scriven.runs.folder import SETTINGS_FILE, has_checkpoints
from scriven.runs.journal import ReplayLog
from scriven.settings import CorpusSettings, Settings, merge_settings, validate
from scriven.training.auto_settings import Workload

RUNS = Path("runs")
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


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to train, new or resumed."""

    run: Run  # its settings are resolved
    corpus: Corpus
    workload: Workload
    notes: tuple[str, ...]  # sentences that the user should read
    checkpoint: Checkpoint | None = None  # to resume from
    best_step: int = 0  # of the best checkpoint, when it resumes
    embedding: str = ""  # file or run folder of the embeddings that a new run starts with
    replay: ReplayLog | None = None  # of the run whose steps are done again

    @property
    def settings(self) -> Settings:
        """All settings."""
        return self.run.settings

    def make_job(self, request: Request) -> WorkerJob:
        """Returns what every worker gets."""
        return WorkerJob(
            settings=self.settings,
            corpus=self.corpus.name,
            resume=str(self.checkpoint.path) if self.checkpoint else "",
            best=self.best_step,
            initial=str(request.initial or ""),
            embedding=self.embedding,
            until=request.until,
            replay=self.replay,
            used_seconds=time.monotonic() - request.begun,
        )


def open_corpus(texts: tuple[str, ...], settings: CorpusSettings, progress: Progress) -> Corpus:
    """Opens the corpus of the texts: one that was built before, one in the cache, or one that is built now."""
    if not texts:
        raise UsageError("no text to train on; name a file, a folder, - for standard input, python or shakespeare")
    if is_corpus(texts):
        return Corpus.open(texts[0])
    return Corpus.open(build(texts, settings, progress=progress))


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
    path = request.output or next(iter(find_runs(request.texts)), None)
    if path and has_checkpoints(path):
        return replace(request, output=path, resume="auto", initial=None)
    return replace(request, output=path, resume=None)


def check_texts_named(request: Request) -> list[str]:
    """The texts as a run's settings keep them: files and folders by their whole paths."""
    known = [str(Path(text).resolve()) if Path(text).exists() else text for text in request.texts]
    return [text.encode("utf-8", "replace").decode() for text in known]  # a file's name may hold anything


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


def find_runs(texts: tuple[str, ...]) -> list[Path]:
    """The runs of this text, or of any where none is named, the one that was written to last first."""
    named = re.compile(re.escape(_name(texts)) + r"(-\d+)?" if texts else ".*")
    found = [path for path in RUNS.glob("*") if (path / SETTINGS_FILE).is_file() and named.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path / SETTINGS_FILE).stat().st_mtime, reverse=True)
