"""What files of a run say of checkpoints, as types: nothing is taken from them before it is found to be of its kind."""

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
Count = Annotated[int, Field(ge=0, lt=1 << 53)]  # so that it is whole as a float too


class FileRecord(BaseModel):
    """Base of what a file says: more than is asked for may stand there."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Measured(FileRecord):
    """A loss, as `events.Loss`; of no characters where none was measured."""

    model_config = ConfigDict(extra="forbid")

    nats: float = 0.0
    characters: Count = 0
    bytes: Count = 0
    ends: Count = 0
    end_nats: float = 0.0
    right: Count = 0
    judged: Count = 0


def read_loss(value: Any) -> Loss:
    """Returns a Loss as it is, or makes one from a mapping in a file. Raises ValueError when that is not a loss."""
    if isinstance(value, Loss):
        return value
    try:
        return Loss(**vars(Measured.model_validate(value)))
    except ValidationError as error:
        raise ValueError(describe_errors(error)) from None


MeasuredLoss = Annotated[Loss, BeforeValidator(read_loss)]


class Best(FileRecord):
    """The best checkpoint at some time."""

    step: Count
    loss: MeasuredLoss


class FileHash(FileRecord):
    """What a file was when it was written."""

    bytes: Count
    sha256: str = Field(pattern=SHA256)


class Beside(FileRecord):
    """Hashes of what lay beside the checkpoints when one was saved; see `scriven.runs.manifest`."""

    vocabulary: str = Field(pattern=SHA256)
    settings: str = Field(pattern=SHA256)


class Files(FileRecord):
    """The marks of a checkpoint's files, and of no others."""

    model_config = ConfigDict(extra="forbid")

    model: FileHash = Field(alias="model.safetensors")
    training: FileHash = Field(alias="training.safetensors")


class Manifest(FileRecord):
    """What every manifest.json has; what else is in it is the training's."""

    format: Count = Field(ge=FORMAT, le=FORMAT)
    number: Count = 0  # of the save
    step: Count
    files: Files
    validation: Measured
    best: Best | None = None  # when it was saved
    run: Beside | None = None  # none in those of earlier versions
    clock: bool = False  # whether it was saved by the clock, and not since something was reached


class Index(FileRecord):
    """Which checkpoints there are: `best` and `last` are steps; `validation` what was measured at each step kept.

    `saves` is how many checkpoints were saved so far. `unread` are steps that could not be read when training went on
    last; they are kept until they can be.
    """

    model_config = ConfigDict(extra="forbid")

    best: Count | None
    last: Count | None
    validation: dict[Annotated[str, Field(pattern="^[0-9]{1,16}$")], Measured]
    saves: Count = 0
    unread: tuple[Count, ...] = Field(default=(), strict=False)


SEALS_KEPT = 200  # hashes of settings that a run had before it was extended; each takes 68 bytes of settings.toml


@dataclass(frozen=True)
class Seals:
    """What a checkpoint of a run may say of the files beside it: its vocabulary's hash, and one of the settings'."""

    vocabulary: str
    settings: tuple[str, ...]  # the last one is that of the settings now


def vocabulary_seal(vocabulary: Vocabulary) -> str:
    """A hash of what a vocabulary means, however it is written."""
    return _hash([vocabulary.unit, vocabulary.symbols, vocabulary.separator])


def settings_seal(values: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """A hash of the values in settings.toml and of its run table, which has the seals beside `origin`."""
    return _hash([values, origin])


def extend_seals(before: Sequence[str], now: str) -> tuple[str, ...]:
    """The seals of settings that take the place of others, whose checkpoints are still there."""
    return (*(seal for seal in before if seal != now), now)[-SEALS_KEPT:]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
