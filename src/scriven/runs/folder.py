"""Run folders: what a run is made from, its checkpoints, and who may write to it."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import filelock
import tomli_w

from scriven.errors import InputError, UsageError
from scriven.runs.checkpoints import Checkpoint, read_json, replace_json, write_checkpoint, write_flushed
from scriven.settings import Settings, read_toml, validated
from scriven.vocabulary import Vocabulary

SETTINGS_FILE, VOCABULARY_FILE, CHECKPOINTS = "settings.toml", "vocabulary.json", "checkpoints"
METRICS_FILE, SAMPLES_FILE, PLOT_FILE = "metrics.jsonl", "samples.jsonl", "loss.png"
Which = Literal["best", "last"] | int


@dataclass
class Index:
    """Which checkpoints there are: `best` and `last` are steps; `evaluations` what was measured at each step kept."""

    best: int | None = None
    last: int | None = None
    validation: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run's folder, opened."""

    path: Path
    settings: Settings
    vocabulary: Vocabulary
    origin: dict[str, Any]  # the run table of settings.toml: texts, corpus, version

    @property
    def corpus_path(self) -> Path:
        """The corpus folder that the run was trained on."""
        return Path(self.origin["corpus"])

    def index(self) -> Index:
        """The index of checkpoints as it is on the disk now; an empty one before the first save."""
        path = self.path / CHECKPOINTS / "index.json"
        return Index(**read_json(path)) if path.exists() else Index()

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
        self, weights: dict[str, Any], training: dict[str, Any], manifest: dict[str, Any], *, best: bool
    ) -> Checkpoint:
        """Writes a checkpoint, makes it the last and perhaps the best, then removes what is neither."""
        step = int(manifest["step"])
        saved = write_checkpoint(self._folder(step), weights, training, manifest)
        index = self.index()
        index.last = step
        index.best = step if best or index.best is None else index.best
        index.validation[str(step)] = manifest["validation"]
        kept = {index.best, index.last}
        index.validation = {key: value for key, value in index.validation.items() if int(key) in kept}
        try:
            replace_json(self.path / CHECKPOINTS / "index.json", vars(index))
        except OSError as error:
            raise InputError(f"cannot save in {self.path}: {error.strerror}; free some space and --resume") from error
        for other in self.steps():
            if other not in kept:
                shutil.rmtree(self._folder(other), ignore_errors=True)
        return saved

    def _folder(self, step: int) -> Path:
        return self.path / CHECKPOINTS / f"step-{step:08d}"


def create_run(path: Path, settings: Settings, vocabulary: Vocabulary, origin: dict[str, Any]) -> Run:
    """A new run folder, or the same one with new settings where a run is extended.

    Raises InputError when it cannot be written.
    """
    run = Run(path, settings, vocabulary, origin)
    try:
        (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        write_flushed(path / VOCABULARY_FILE, vocabulary.to_json().encode())
        write_flushed(path / SETTINGS_FILE, tomli_w.dumps(settings.model_dump() | {"run": origin}).encode())
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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Holds the right to write to a run folder.

    Raises InputError when another process has it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path / ".lock", timeout=0):
            yield
    except filelock.Timeout:
        raise InputError(
            f"{path} is in use by another training; wait for it, or choose another folder with -o"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; choose another folder with -o") from error
