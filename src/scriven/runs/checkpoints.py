"""Reads and writes checkpoints: folders that exist whole or not at all. Weights are safetensors, the rest is JSON."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from scriven.arrays import Float32s
from scriven.errors import InputError, UnreadableError, shortage
from scriven.loss import Loss
from scriven.runs.ngrams import MixtureWeights
from scriven.runs.tensors import Shapes, decode, decode_tensors, encode, finite, read_checked, show_name
from scriven.safe_files import discard, exists, flush_folder, list_names, read_json, real_folder, write_flushed
from scriven.settings_values import describe_errors
from scriven.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor, nn

    from scriven.runs.tensors import AnyArray

SomeArray = TypeVar("SomeArray", bound="AnyArray")
MODEL_FILE, TRAINING_FILE, MANIFEST_FILE = "model.safetensors", "training.safetensors", "manifest.json"
UNFINISHED, ASIDE = ".tmp", ".old"  # the ends of names during a save
UNREAD = ".unread"  # the end of the name of a checkpoint that could not be read when its step was saved again
EPOCHS_LIMIT = 1e15  # a larger number is damaged
OTHERS = "use another checkpoint of this run (scriven info lists them, --checkpoint and --resume take their steps)"
FORMAT = 1
SEALS_KEPT = 200  # of settings that a run had before it was extended; each takes 68 bytes of settings.toml
SHA256 = "^[0-9a-f]{64}$"
Count = Annotated[int, Field(ge=0, lt=1 << 53)]  # so that a float can hold it exactly


# --- the types of JSON files, which check them before use


class FileRecord(BaseModel):
    """Base of file records; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Measured(FileRecord):
    """A loss, like `loss.Loss`; it has 0 characters if none was measured."""

    model_config = ConfigDict(extra="forbid")

    nats: float = 0.0
    characters: Count = 0
    bytes: Count = 0
    ends: Count = 0
    end_nats: float = 0.0
    right: Count = 0
    judged: Count = 0


def read_loss(value: Any) -> Loss:
    """Returns a Loss as it is, or makes one from a mapping in a file. Raises ValueError if that is not a loss."""
    if isinstance(value, Loss):
        return value
    try:
        return Loss(**vars(Measured.model_validate(value)))
    except ValidationError as error:
        raise ValueError(describe_errors(error)) from None


MeasuredLoss = Annotated[Loss, BeforeValidator(read_loss)]


class Best(FileRecord):
    """The step and loss of the checkpoint that was the best at some time."""

    step: Count
    loss: MeasuredLoss


class FileHash(FileRecord):
    """The size and hash of a file when it was written."""

    bytes: Count
    sha256: str = Field(pattern=SHA256)


class Beside(FileRecord):
    """Seals of the run's vocabulary and settings when a checkpoint was saved; see `Seals`."""

    vocabulary: str = Field(pattern=SHA256)
    settings: str = Field(pattern=SHA256)


class Files(FileRecord):
    """The hashes of a checkpoint's files; no others are allowed."""

    model_config = ConfigDict(extra="forbid")

    model: FileHash = Field(alias="model.safetensors")
    training: FileHash = Field(alias="training.safetensors")


class Manifest(FileRecord):
    """The values that every manifest.json has; all others belong to the training state."""

    format: Count = Field(ge=FORMAT, le=FORMAT)
    number: Count = 0  # the number of the save
    step: Count
    files: Files
    validation: Measured
    best: Best | None = None  # at the time of the save
    run: Beside | None = None  # None in files of earlier versions
    clock: bool = False  # whether it was saved because of the time, and not because something was reached
    mixture: MixtureWeights | None = None  # of the model with the run's counts; None: the network alone


class Index(FileRecord):
    """The index of a run's checkpoints.

    best, last: steps. validation: the loss at each step that is kept. saves: the number of checkpoints ever saved.
    unread: steps that could not be read when the run was last resumed; they are kept until they can be read.
    """

    model_config = ConfigDict(extra="forbid")

    best: Count | None
    last: Count | None
    validation: dict[Annotated[str, Field(pattern="^[0-9]{1,16}$")], Measured]
    saves: Count = 0
    unread: tuple[Count, ...] = Field(default=(), strict=False)


# --- seals of the files that a checkpoint belongs to


@dataclass(frozen=True)
class Seals:
    """The hashes that a checkpoint of a run may have: one of the vocabulary, and one of the settings."""

    vocabulary: str
    settings: tuple[str, ...]  # the last one is for the present settings


def vocabulary_seal(vocabulary: Vocabulary) -> str:
    """A hash of a vocabulary's content; the format of its file does not matter."""
    return _hash([vocabulary.unit, vocabulary.tokens or vocabulary.symbols, vocabulary.separator])


def settings_seal(values: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """A hash of the values in settings.toml and of `origin`, which is its run table without the seals."""
    return _hash([values, origin])


def extend_seals(before: Sequence[str], now: str) -> tuple[str, ...]:
    """Adds the seal of new settings to the seals of earlier ones, whose checkpoints may still exist."""
    return (*(seal for seal in before if seal != now), now)[-SEALS_KEPT:]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


# --- checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder. Its files are read only when they are used, and are checked first."""

    path: Path
    seals: Seals | None = field(default=None, compare=False)  # of the run; None when they are not compared

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The values of manifest.json: those of `Manifest`, and the training state.

        Raises InputError if it is missing, damaged or of another step; UnreadableError if its format is newer.
        """
        for folder in (self.path.parent, self.path):
            real_folder(folder)
        path = self.path / MANIFEST_FILE
        manifest = read_json(path)
        number = manifest.get("format") if isinstance(manifest, dict) else None
        if isinstance(number, int) and number > FORMAT:
            raise UnreadableError(f"{self.path} has format {number}, of a newer scriven; use that version")
        try:
            Manifest.model_validate(manifest)
        except ValidationError as error:
            raise InputError(f"{path} is damaged: {describe_errors(error)}; {OTHERS}") from None
        if self.path.name != folder_name(manifest["step"]):
            raise InputError(f"{self.path} says that its step is {manifest['step']}; {OTHERS}")
        self._compare_seals(manifest.get("run"))
        values: dict[str, Any] = manifest
        return values

    def _compare_seals(self, saved: dict[str, str] | None) -> None:
        """Raises InputError if the run's vocabulary or settings have changed since the checkpoint was saved."""
        if self.seals is None or saved is None:
            return
        same = {
            "vocabulary.json": saved["vocabulary"] == self.seals.vocabulary,
            "settings.toml": saved["settings"] in self.seals.settings,
        }
        for name, whole in same.items():
            if not whole:
                raise InputError(
                    f"{self.path.parents[1] / name} has changed since {self.path.name} was saved; restore it from a "
                    "copy of the run (to change a setting of a run, give its flag together with --resume)"
                )

    @property
    def step(self) -> int:
        """The number of optimizer steps done."""
        return int(self.manifest["step"])

    @property
    def number(self) -> int:
        """The number of this save of the run, counted from 1: the newest checkpoint has the largest."""
        return int(self.manifest.get("number", 0))

    @property
    def epochs(self) -> float | None:
        """The number of passes over the training text when it was saved; None when unknown."""
        value = self.manifest.get("epochs")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < EPOCHS_LIMIT:
            return None
        return float(value)

    @property
    def mixture(self) -> MixtureWeights | None:
        """The weights of the mixture with the run's counts, or None for the network alone."""
        return Manifest.model_validate(self.manifest).mixture

    def arrays(self, expected: Shapes | None = None) -> dict[str, Float32s]:
        """Reads the model's parameters by name, as numpy's arrays, and checks that they are finite.

        With `expected`, a file whose header has other names or shapes is refused before its arrays are read.
        Raises InputError if the file is damaged, or belongs to another model.
        """
        data = self._read(MODEL_FILE, expected)
        return self._check_finite(MODEL_FILE, decode(self.path / MODEL_FILE, data))

    def weights(self, expected: Shapes | None = None) -> dict[str, Tensor]:
        """Reads what `arrays` does, as torch's arrays on the CPU."""
        return as_tensors(self.arrays(expected))

    def training(self) -> dict[str, Tensor]:
        """Reads the states of model and optimizer as named tensors, on the CPU, and checks that they are finite.

        Raises InputError if the file is damaged.
        """
        data = self._read(TRAINING_FILE)
        return self._check_finite(TRAINING_FILE, decode_tensors(self.path / TRAINING_FILE, data))

    def verify(self, expected: Shapes, most: int) -> None:
        """Reads and checks everything.

        Raises InputError if anything is missing or damaged, or does not belong to a model of these shapes, whose
        training state has at most `most` bytes.
        """
        if self.manifest["files"][TRAINING_FILE]["bytes"] > most:
            raise InputError(f"{self.path / TRAINING_FILE} is over {most:,} bytes, too large for this model; {OTHERS}")
        self.arrays(expected)
        self._check_finite(TRAINING_FILE, decode(self.path / TRAINING_FILE, self._read(TRAINING_FILE)))

    def _read(self, name: str, expected: Shapes | None = None) -> bytes:
        path = self.path / name
        claimed = self.manifest["files"][name]
        data = read_checked(path, expected, claimed["bytes"])
        if hashlib.sha256(data).hexdigest() != claimed["sha256"]:
            raise InputError(f"{path} is damaged: the SHA-256 of its {len(data):,} bytes is wrong; {OTHERS}")
        return data

    def _check_finite(self, name: str, arrays: dict[str, SomeArray]) -> dict[str, SomeArray]:
        for part, values in arrays.items():
            if not finite(values):
                raise InputError(
                    f"the arrays in {self.path / name} ({show_name(part)}) are not finite numbers; {OTHERS}"
                )
        return arrays


def folder_name(step: int) -> str:
    """The name of the folder for a step's checkpoint."""
    return f"step-{step:08d}"


def whole_epochs(epochs: float) -> int:
    """The number of whole passes over the text; sums of parts of them may be slightly too small."""
    return math.floor(epochs + 1e-9)


def as_tensors(arrays: Mapping[str, AnyArray]) -> dict[str, Tensor]:
    """Returns arrays as torch's, which share their memory."""
    import torch  # noqa: PLC0415 - only training needs torch

    return {name: torch.from_numpy(each) if isinstance(each, np.ndarray) else each for name, each in arrays.items()}


def load_weights(model: nn.Module, checkpoint: Checkpoint, weights: Mapping[str, AnyArray] | None = None) -> None:
    """Loads a checkpoint's weights into a model, or `weights` that were made from them.

    Raises InputError if they cannot be read, or belong to a model of another shape.
    """
    try:
        if weights is None:
            weights = checkpoint.weights({name: value.shape for name, value in model.state_dict().items()})
        model.load_state_dict(as_tensors(weights))
    except RuntimeError as error:
        if shortage(error):
            raise
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the weights in {checkpoint.path} do not fit the model's settings ({reason})") from None


def write_checkpoint(
    folder: Path,
    weights: Mapping[str, AnyArray],
    training: Mapping[str, AnyArray],
    manifest: dict[str, Any],
    *,
    keep_old: bool = False,
) -> Checkpoint:
    """Writes a checkpoint to the folder `folder`: into a temporary folder first, which is flushed and renamed.

    An old checkpoint of that name is removed, or renamed to NAME.unread with `keep_old`. Nothing else may write in the
    parent folder. Raises OSError if the disk is full or cannot be written, InputError for a manifest that could not be
    read again. An old checkpoint is then untouched.
    """
    temporary, old = (folder.with_name(f".{folder.name}{end}") for end in (UNFINISHED, ASIDE))
    try:
        sweep(folder.parent)
        temporary.mkdir(parents=True)
        files = {}
        for name, tensors in ((MODEL_FILE, weights), (TRAINING_FILE, training)):
            files[name] = vars(write_flushed(temporary / name, *encode(tensors)))
        manifest = {"format": FORMAT, **manifest, "files": files}
        Manifest.model_validate(manifest)
        write_flushed(temporary / MANIFEST_FILE, json.dumps(manifest, indent=1, allow_nan=False).encode())
        flush_folder(temporary)
        if exists(folder):  # the same step saved again, after a resume from before it
            folder.rename(_free_name(folder) if keep_old else old)
        temporary.rename(folder)
        flush_folder(folder.parent)
        discard(old)
    except OSError:
        with contextlib.suppress(OSError, InputError):
            sweep(folder.parent)
        raise
    except ValidationError as error:
        raise InputError(f"{folder} cannot be saved, as it could not be read again: {describe_errors(error)}") from None
    return Checkpoint(folder)


def _free_name(folder: Path) -> Path:
    """A free name for a checkpoint that could not be read when its step was reached again."""
    names = (folder.with_name(f"{folder.name}{UNREAD}{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder.with_name(folder.name + UNREAD)], names) if not exists(path))


def sweep(folder: Path) -> None:
    """Removes leftovers of killed saves in a folder. Renames an old checkpoint back if no new one took its place.

    Raises OSError; InputError if the folder is a symbolic link, which may lead anywhere.
    """
    for name in list_names(real_folder(folder)):
        path = folder / name
        if not re.fullmatch(rf"\.step-[0-9]{{8,16}}({re.escape(UNFINISHED)}|{re.escape(ASIDE)})", name):
            continue
        place = folder / path.stem.removeprefix(".")
        whole = not path.is_symlink() and exists(path / MANIFEST_FILE)
        if path.suffix == ASIDE and whole and not exists(place):
            path.rename(place)
        else:
            discard(path)
