"""Run folders: finds and opens them, saves and prunes their checkpoints."""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from scriven.arguments import check_step, epoch_of
from scriven.corpus.filesystem import Place, place_of
from scriven.errors import InputError, UnreadableError, UsageError
from scriven.kernels import native_library
from scriven.kernels.counts import NgramTable
from scriven.model.shapes import state_size, weight_shapes
from scriven.runs.checkpoints import (
    SHA256,
    Checkpoint,
    FileHash,
    Index,
    Measured,
    Seals,
    folder_name,
    settings_seal,
    vocabulary_seal,
    whole_epochs,
    write_checkpoint,
)
from scriven.runs.journal import drop_log_backups, flush_logs
from scriven.runs.ngrams import read_table
from scriven.runs.tensors import HEADER_LIMIT, Shapes, physical_memory
from scriven.safe_files import (
    exists,
    list_names,
    parse_toml,
    read_json,
    read_text,
    real_folder,
    remove_folder,
    replace_file,
)
from scriven.settings import REGISTERED_OPTIMIZERS, CorpusSettings, Settings
from scriven.settings_values import describe_errors, find_unregistered, validate, with_current_names
from scriven.vocabulary import Vocabulary

RUNS = Path("runs")  # where new runs are made
SETTINGS_FILE, VOCABULARY_FILE, CHECKPOINTS = "settings.toml", "vocabulary.json", "checkpoints"
PACKED = "packed"  # in the run table of a run that came without its text
IMPORTED = "imported"  # there: the program that trained the model, if that was not Scriven
INDEX_FILE = "index.json"
PLOT_FILE = "loss.svg"
SETTINGS_LIMIT = 500_000  # bytes of settings.toml; long ones are mostly names of texts
Which = Literal["best", "last"] | int | str  # best, last, a step, or an epoch as epoch:17
RUNS_SHOWN = 8  # as suggestions for a run that does not exist


PathText = Annotated[str, Field(pattern=r"^[^\x00]*\z")]  # no system allows NUL in a path


@dataclass(frozen=True)
class Run:
    """An opened run folder."""

    path: Path
    settings: Settings
    vocabulary: Vocabulary
    origin: dict[str, Any]  # the run table of settings.toml: texts, corpus, version
    setting_seals: tuple[str, ...] = ()  # of its settings, and of those before it was extended

    @property
    def corpus_path(self) -> Place:
        """The folder or URL of the corpus that the run was trained on."""
        return place_of(self.origin["corpus"])

    @cached_property
    def seals(self) -> Seals:
        """The seals of its settings and vocabulary that its checkpoints may have."""
        return Seals(vocabulary_seal(self.vocabulary), self.setting_seals)

    def counts(self) -> NgramTable | None:
        """Reads the n-gram table of the training text; None if the run has none.

        Without native code, a network is used without its counts, so it is None too. Raises InputError if it is
        damaged, or missing where the model needs it.
        """
        known = self.origin.get("counts")
        if known is not None and self.settings.model.kind == "network" and native_library.library() is None:
            return None
        if known is not None:
            return read_table(self.path, known["bytes"], known["sha256"], self.vocabulary)
        if self.settings.model.kind == "counts":
            raise InputError(f"{self.path / SETTINGS_FILE} is damaged: its model is of counts, but it names none")
        return None

    def shapes(self) -> Shapes:
        """The names and shapes of the model's weights.

        Raises InputError if the settings contradict each other or the vocabulary.
        """
        corpus, vocabulary = self.settings.corpus, self.vocabulary
        if (corpus.unit, corpus.documents != "none") != (vocabulary.unit, vocabulary.boundary is not None):
            raise InputError(
                f"{self.path / SETTINGS_FILE} and {VOCABULARY_FILE} do not match; restore both from one copy"
            )
        try:
            return weight_shapes(self.settings.model, vocabulary.size)
        except UsageError as error:
            raise InputError(f"{self.path / SETTINGS_FILE} describes an impossible model: {error}") from None

    def expected_contents(self) -> tuple[Shapes, int]:
        """The shapes of the weights in a checkpoint, and the most bytes that its training state can have.

        An optimizer keeps at most two values per weight, and averaging two more. A registered one may keep any number,
        so only the memory of this machine limits it. Raises InputError like `shapes`.
        """
        shapes = self.shapes()
        if REGISTERED_OPTIMIZERS.find(self.settings.training.optimizer):
            return shapes, physical_memory()
        states = self.settings.reader.batch * state_size(self.settings.model, self.vocabulary.size)
        return shapes, 4 * (4 * sum(map(prod, shapes.values())) + states) + HEADER_LIMIT

    def index(self) -> Index:
        """Reads the index of checkpoints from the disk; it is empty before the first save.

        Raises InputError if it is damaged.
        """
        path = real_folder(self.path / CHECKPOINTS) / INDEX_FILE
        if not exists(path):
            return Index(best=None, last=None, validation={})
        try:
            return Index.model_validate(read_json(path))
        except ValidationError:
            raise InputError(f"{path} is damaged; give a checkpoint by its step, or repair it by --resume") from None

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order. Raises UnreadableError if the folder cannot be read."""
        names = (re.fullmatch(r"step-([0-9]{8,16})", name) for name in list_names(self.path / CHECKPOINTS))
        return sorted(int(name[1]) for name in names if name and folder_name(int(name[1])) == name[0])

    def checkpoint(self, which: Which) -> Checkpoint:
        """Finds the best or the last checkpoint, the one of a step, or the first one of an epoch.

        Raises InputError if it does not exist; UsageError if `which` is anything else.
        """
        check_step("which", which, ["best", "last"])
        if (epoch := epoch_of(which)) is not None:
            return self._checkpoint_of_epoch(epoch)
        step = which if isinstance(which, int) else getattr(self.index(), which)
        there = self.steps()
        if step is None or step not in there:
            raise InputError(
                f"{self.path} has no checkpoint {which}; "
                + (_has_those("step", there) if there else "nothing was saved before it ended")
            )
        return Checkpoint(self._folder(step), self.seals)

    def _checkpoint_of_epoch(self, epoch: int) -> Checkpoint:
        """Finds the first checkpoint after exactly `epoch` whole epochs; skips damaged ones.

        Raises InputError if there is none.
        """
        found = list[int]()
        for step in self.steps():
            with contextlib.suppress(InputError):
                checkpoint = Checkpoint(self._folder(step), self.seals)
                if checkpoint.epochs is not None:
                    found.append(whole_epochs(checkpoint.epochs))
                    if found[-1] == epoch:
                        return checkpoint
        there = list(dict.fromkeys(found))
        raise InputError(
            f"{self.path} has no checkpoint of epoch {epoch}; "
            + (_has_those("epoch", there) if there else "its checkpoints do not say their epochs")
            + " (--keep all keeps those of every evaluation, and --monitor.every-epochs 1 evaluates after each epoch)"
        )

    def save(
        self, weights: dict[str, Any], training: dict[str, Any], manifest: dict[str, Any], *, best: int
    ) -> Checkpoint:
        """Writes a checkpoint, which becomes the last one, and removes those that `monitor.keep` does not keep.

        `best` is the step of the best checkpoint: this one or an earlier one. Checkpoints of later steps are removed,
        as a run that was resumed from before them now continues differently. Raises InputError if the disk is full or
        cannot be written; then the old checkpoints are all still there.
        """
        step = int(manifest["step"])
        try:
            return self._save(step, weights, training, manifest, best)
        except OSError as error:
            raise InputError(
                f"cannot save a checkpoint at {self._folder(step)}: {error.strerror}; free some space or allow writing,"
                " then continue with --resume"
            ) from error

    def _save(
        self, step: int, weights: dict[str, Any], training: dict[str, Any], manifest: dict[str, Any], best: int
    ) -> Checkpoint:
        before = self.index()
        flush_logs(self.path)  # first, so that the logs on the disk are never behind the checkpoint
        beside = {"vocabulary": self.seals.vocabulary, "settings": self.setting_seals[-1]}
        manifest = {"number": before.saves + 1, "run": beside, **manifest}
        saved = write_checkpoint(self._folder(step), weights, training, manifest, keep_old=step in before.unread)
        unread = tuple(other for other in before.unread if other != step)
        gone = self._prune(best, step) - {*unread}
        validation = before.validation | {str(step): Measured.model_validate(manifest["validation"])}
        validation = {key: value for key, value in validation.items() if int(key) not in gone}
        saves = before.saves + 1
        self.write_index(Index(best=best, last=step, validation=validation, saves=saves, unread=unread))
        drop_log_backups(self.path)
        for other in gone:  # the next save removes what cannot be removed now
            remove_folder(self._folder(other))
        return saved

    def write_index(self, index: Index) -> None:
        """Replaces the index. Raises OSError if that fails; the old one is then still there."""
        replace_file(self.path / CHECKPOINTS / INDEX_FILE, index.model_dump_json(indent=1).encode())

    def _prune(self, best: int, last: int) -> set[int]:
        """The steps of checkpoints to remove, given the best and the last one; nothing when one cannot be read now.

        Of those that were saved by the clock, only the last one is kept. With every kept checkpoint, the one that was
        the best when it was saved is kept too: resuming needs it.
        """
        keep = self.settings.monitor.keep
        with contextlib.suppress(UnreadableError):
            there = self.steps()
            steps = [step for step in there if step <= last]
            count = len(steps) if keep == "all" else 1 if keep == "best" else int(keep)
            lasting = steps if count == 1 else [step for step in steps if not self._find_saved_by_clock(step)]
            kept = {best, last, *lasting[-count:]}
            return {*there} - kept - ({self._best_at(each) for each in kept} if count > 1 else set())
        return set()

    def _best_at(self, step: int) -> int | None:
        """The step of the best checkpoint at the time when `step` was saved; None when that one is damaged or missing.

        Raises UnreadableError if it cannot be read now.
        """
        try:
            best = Checkpoint(self._folder(step)).manifest.get("best")
        except UnreadableError:
            raise
        except InputError:
            return None
        return best and int(best["step"])

    def _find_saved_by_clock(self, step: int) -> bool:
        """Whether the checkpoint of a step was saved by the clock, according to its manifest."""
        with contextlib.suppress(InputError):
            return Checkpoint(self._folder(step)).manifest.get("clock") is True
        return False

    def _folder(self, step: int) -> Path:
        return self.path / CHECKPOINTS / folder_name(step)


def has_checkpoints(path: Path) -> bool:
    """Whether a run's folder has a checkpoint, or one that is being replaced.

    Raises UnreadableError if the folder cannot be read.
    """
    return any(re.match(r"step-|\.step-.*\.old$", name) for name in list_names(path / CHECKPOINTS))


class RunOrigin(BaseModel):
    """The run table of settings.toml."""

    corpus: PathText  # required: it is written late, so a file that was cut short lacks it
    seals: tuple[Annotated[str, Field(pattern=SHA256)], ...] = ()
    texts: tuple[PathText, ...] = ()
    text: str = ""
    kernels: str = ""
    initial: PathText = ""
    embedding: PathText = ""
    replay: PathText = ""
    counts: FileHash | None = None  # of the file with the n-gram table


def locate_run(name: str | Path) -> Path | None:
    """Returns the folder of a run, named by its path, or by its name if it is in `RUNS`. Any other name gives None."""
    path = Path(name)
    places = [path, RUNS / path] if len(path.parts) == 1 and not path.is_absolute() else [path]
    return next((place for place in places if exists(place / SETTINGS_FILE)), None)


def find_run(name: str | Path) -> Path:
    """Returns the folder of a run as `locate_run` does. Raises InputError, which lists the runs there are."""
    if found := locate_run(name):
        return found
    what = "is not a run folder" if Path(name).exists() else "does not exist"
    raise InputError(f"{name} {what}; {_instead(Path(name))}")


def open_run(name: str | Path) -> Run:
    """Opens the run in a folder, or of this name in `RUNS`.

    Raises InputError if there is none, or if it is damaged.
    """
    path = find_run(name)
    values = parse_toml(read_text(path / SETTINGS_FILE, SETTINGS_LIMIT), path / SETTINGS_FILE)
    origin = values.pop("run", {})
    if missing := find_unregistered(values):
        raise InputError(
            f"{path} has {missing}, which is not registered here; import the module that registers it first (on the "
            "command line: --import MODULE)"
        )
    try:
        settings = validate(with_current_names(values))
    except UsageError as error:
        raise InputError(f"{path / SETTINGS_FILE} does not fit this version of scriven: {error}") from None
    try:
        known = RunOrigin.model_validate(origin).seals
    except ValidationError as error:
        raise InputError(f"{path / SETTINGS_FILE} is damaged: {describe_errors(error, 'run')}") from None
    try:
        vocabulary = Vocabulary.from_json(read_text(path / VOCABULARY_FILE))
    except InputError as error:
        raise InputError(f"cannot read {path / VOCABULARY_FILE}: {error}") from None
    origin.pop("seals", None)
    seal = settings_seal(values, origin)
    return Run(path, settings, vocabulary, origin, known if seal in known[-1:] else (seal,))


def _has_those(what: str, numbers: Sequence[int]) -> str:
    """A phrase that lists the checkpoints of a run by step or epoch."""
    if len(numbers) == 1:
        return f"it has that of {what} {numbers[0]}"
    return f"it has those of {what}s {', '.join(map(str, numbers))}"


def _instead(path: Path) -> str:
    """A suggestion for a path that is not a run: the runs in it, next to it or in `RUNS`, the most similar first."""
    for folder in (path, path.parent, RUNS):
        with contextlib.suppress(OSError):
            names = sorted(each.name for each in folder.iterdir() if exists(each / SETTINGS_FILE))
            near = difflib.get_close_matches(path.name, names, RUNS_SHOWN)
            names = [*near, *(name for name in names if name not in near)]
            if names:
                shown = ", ".join(str(folder / name) for name in names[:RUNS_SHOWN])
                more = f" and {len(names) - RUNS_SHOWN:,} more" if len(names) > RUNS_SHOWN else ""
                return f"{'did you mean ' + str(folder / near[0]) + '? ' if near else ''}there are {shown}{more}"
    return f"a run folder is what scriven train makes, with a {SETTINGS_FILE} in it"


def retraining_command(run: Run) -> str:
    """The command that trains a run's model on its texts as they are now, with the same corpus settings and budget."""
    words = [*run.origin.get("texts", []), "--from", str(run.path)]
    for name, value in run.settings.corpus:
        if value != getattr(CorpusSettings(), name):
            words += [f"--corpus.{name.replace('_', '-')}", *([] if value is True else [f"{value}"])]
    for name, value in run.settings.budget:
        words += [f"--{name}", f"{value:.15g}"] if value else []
    return shlex.join(["scriven", "train", *words])
