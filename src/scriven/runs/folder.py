"""Run folders: what a run is made from, its checkpoints, and who may write to it."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import filelock
import tomli_w
from pydantic import ValidationError

from scriven.corpus.build import Progress, build
from scriven.corpus.storage import Place, place_of
from scriven.corpus.store import Corpus
from scriven.errors import InputError, UsageError
from scriven.runs.checkpoints import Checkpoint, read_json, replace_file, write_checkpoint
from scriven.settings import Frozen, Settings, read_toml, validated
from scriven.vocabulary import Vocabulary

SETTINGS_FILE, VOCABULARY_FILE, CHECKPOINTS = "settings.toml", "vocabulary.json", "checkpoints"
INDEX_FILE = "index.json"
METRICS_FILE, SAMPLES_FILE, PLOT_FILE = "metrics.jsonl", "samples.jsonl", "loss.png"
Which = Literal["best", "last"] | int


class Index(Frozen):
    """Which checkpoints there are: `best` and `last` are steps; `validation` what was measured at each step kept."""

    best: int | None
    last: int | None
    validation: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """A run's folder, opened."""

    path: Path
    settings: Settings
    vocabulary: Vocabulary
    origin: dict[str, Any]  # the run table of settings.toml: texts, corpus, version

    @property
    def corpus_path(self) -> Place:
        """The folder, or URL, of the corpus that the run was trained on."""
        return place_of(self.origin["corpus"])

    def index(self) -> Index:
        """The index of checkpoints as it is on the disk now; an empty one before the first save.

        Raises InputError when it is damaged.
        """
        path = self.path / CHECKPOINTS / INDEX_FILE
        if not path.exists():
            return Index(best=None, last=None, validation={})
        try:
            return Index.model_validate(read_json(path))
        except ValidationError:
            raise InputError(
                f"{path} is damaged; name a checkpoint by its step, or remove the file before --resume STEP"
            ) from None

    def steps(self) -> list[int]:
        """The steps of all checkpoints there are, in order."""
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in (self.path / CHECKPOINTS).glob("step-*"))
        return sorted(int(name[1]) for name in names if name)

    def checkpoint(self, which: Which) -> Checkpoint:
        """The best or the last checkpoint, or that of a step.

        Raises InputError when there is none.
        """
        step = which if isinstance(which, int) else getattr(self.index(), which)
        there = self.steps()
        if step is None or step not in there:
            raise InputError(
                f"{self.path} has no checkpoint {which}; "
                + (
                    f"it has those of steps {', '.join(map(str, there))}"
                    if there
                    else "nothing was saved before it ended"
                )
            )
        return Checkpoint(self._folder(step))

    def save(
        self, weights: dict[str, Any], training: dict[str, Any], manifest: dict[str, Any], *, best: int
    ) -> Checkpoint:
        """Writes a checkpoint, which is the last one then, and removes what `monitor.keep` lets go.

        `best` is the step of the best checkpoint: this one or one saved before. Those of later steps go: a run that
        was resumed from before them goes another way now.
        """
        step = int(manifest["step"])
        saved = write_checkpoint(self._folder(step), weights, training, manifest)
        before = self.index()
        kept = self._kept(best, step)
        validation = before.validation | {str(step): manifest["validation"]}
        validation = {key: value for key, value in validation.items() if int(key) in kept}
        index = Index(best=best, last=step, validation=validation)
        try:
            replace_file(self.path / CHECKPOINTS / INDEX_FILE, index.model_dump_json(indent=1).encode())
        except OSError as error:
            raise InputError(f"cannot save in {self.path}: {error.strerror}; free some space and --resume") from error
        for other in self.steps():
            if other not in kept:
                shutil.rmtree(self._folder(other), ignore_errors=True)
        return saved

    def _kept(self, best: int, last: int) -> set[int]:
        """The steps whose checkpoints stay, when that is the best one and the last.

        With each stays the one that was the best then, without which it could not be gone on with.
        """
        steps = [step for step in self.steps() if step <= last]
        keep = self.settings.monitor.keep
        count = len(steps) if keep == "all" else 1 if keep == "best" else int(keep)
        kept = {best, last, *steps[-count:]}
        return kept | ({step for each in kept if (step := self._best_at(each)) in steps} if count > 1 else set())

    def _best_at(self, step: int) -> int | None:
        """The step of the best checkpoint when that of `step` was saved."""
        with contextlib.suppress(InputError, KeyError, TypeError):
            return int(Checkpoint(self._folder(step)).manifest["best"]["step"])
        return None

    def _folder(self, step: int) -> Path:
        return self.path / CHECKPOINTS / f"step-{step:08d}"


def create_run(path: Path, settings: Settings, vocabulary: Vocabulary, origin: dict[str, Any]) -> Run:
    """A new run folder, or the same one with new settings where a run is extended.

    Raises InputError when it cannot be written.
    """
    run = Run(path, settings, vocabulary, origin)
    try:
        (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        replace_file(path / VOCABULARY_FILE, vocabulary.to_json().encode())
        replace_file(path / SETTINGS_FILE, tomli_w.dumps(settings.model_dump() | {"run": origin}).encode())
    except OSError as error:
        raise InputError(f"cannot write the run folder {path}: {error.strerror}; choose another with -o") from None
    return run


def open_run(path: str | Path) -> Run:
    """A run folder as it was written.

    Raises InputError when the folder is missing, is no run, or its parts do not fit together.
    """
    path = Path(path)
    if not (path / SETTINGS_FILE).is_file():
        what = "is not a run folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}: a run folder is what scriven train makes, with a {SETTINGS_FILE} in it")
    values = read_toml(path / SETTINGS_FILE)
    origin = values.pop("run", {})
    try:
        settings = validated(values)
    except UsageError as error:
        raise InputError(f"{path / SETTINGS_FILE} does not fit this version of scriven: {error}") from None
    try:
        vocabulary = Vocabulary.from_json((path / VOCABULARY_FILE).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path / VOCABULARY_FILE}: {error}") from None
    return Run(path, settings, vocabulary, origin)


def run_corpus(run: Run, progress: Progress | None = None) -> Corpus:
    """The corpus that a run was trained on; built again from its texts where it is gone. `progress` is `build`'s.

    Raises InputError when the texts are gone too, or are other ones now.
    """
    with contextlib.suppress(InputError):  # gone, damaged, or of an earlier format
        return Corpus.open(run.corpus_path)
    texts = run.origin.get("texts", [])
    if not texts or "-" in texts:
        raise InputError(f"the corpus of {run.path} is gone, and its text came from standard input; name a text")
    try:
        corpus = Corpus.open(build(texts, run.settings.corpus, progress=progress))
    except InputError as error:
        raise InputError(f"the corpus of {run.path} is gone and cannot be built again: {error}") from None
    if corpus.vocabulary != run.vocabulary:
        raise InputError(
            f"the corpus of {run.path} is gone, and {', '.join(texts)} has other characters now; name another text"
        )
    return corpus


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Holds the right to write to a run folder.

    Raises InputError when another process has it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(path / ".lock", timeout=0).acquire()
    except filelock.Timeout:
        raise InputError(
            f"{path} is in use by another training; wait for it, or choose another folder with -o"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; choose another folder with -o") from error
    with held:
        yield
