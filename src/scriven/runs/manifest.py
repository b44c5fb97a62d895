"""The types of a run's index and manifests, which check them before use, and the seals of its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from scriven.events import Loss
from scriven.settings import describe_errors
from scriven.vocabulary import Vocabulary

FORMAT = 1
SHA256 = "^[0-9a-f]{64}$"
Count = Annotated[int, Field(ge=0, lt=1 << 53)]  # so that a float can hold it exactly


class FileRecord(BaseModel):
    """Base of file records; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Measured(FileRecord):
    """A loss, like `events.Loss`; it has 0 characters if none was measured."""

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


SEALS_KEPT = 200  # of settings that a run had before it was extended; each takes 68 bytes of settings.toml


@dataclass(frozen=True)
class Seals:
    """The hashes that a checkpoint of a run may have: one of the vocabulary, and one of the settings."""

    vocabulary: str
    settings: tuple[str, ...]  # the last one is for the present settings


def vocabulary_seal(vocabulary: Vocabulary) -> str:
    """A hash of a vocabulary's content; the format of its file does not matter."""
    return _hash([vocabulary.unit, vocabulary.symbols, vocabulary.separator])


def settings_seal(values: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """A hash of the values in settings.toml and of `origin`, which is its run table without the seals."""
    return _hash([values, origin])


def extend_seals(before: Sequence[str], now: str) -> tuple[str, ...]:
    """Adds the seal of new settings to the seals of earlier ones, whose checkpoints may still exist."""
    return (*(seal for seal in before if seal != now), now)[-SEALS_KEPT:]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
