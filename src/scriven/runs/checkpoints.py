"""Checkpoints: folders that exist whole or not at all. Weights are safetensors, the rest is JSON."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from scriven.errors import InputError, UnreadableError, shortage
from scriven.runs.manifest import FORMAT, Manifest, Seals
from scriven.runs.tensors import Shapes, decode, encode, finite, read_checked, show_name
from scriven.safe_files import discard, exists, flush_folder, list_names, read_json, real_folder, write_flushed
from scriven.settings import describe_errors

MODEL_FILE, TRAINING_FILE, MANIFEST_FILE = "model.safetensors", "training.safetensors", "manifest.json"
UNFINISHED, ASIDE = ".tmp", ".old"  # how names end while a save is under way
UNREAD = ".unread"  # how that of a checkpoint ends which could not be read when its step was saved again
EPOCHS_LIMIT = 1e15  # more are no number that a training told
OTHERS = "use another checkpoint of this run (scriven info lists them, --checkpoint and --resume take their steps)"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder. Nothing is read before it is asked for, and what is read is checked first."""

    path: Path
    seals: Seals | None = field(default=None, compare=False)  # of the run; none where they are not compared

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the checkpoint says of itself: what `Manifest` has, and what the training that saved it told.

        Raises InputError when it is missing, damaged or of another step, UnreadableError when it is of a newer format.
        """
        for folder in (self.path.parent, self.path):
            real_folder(folder)
        path = self.path / MANIFEST_FILE
        manifest = read_json(path)
        number = manifest.get("format") if isinstance(manifest, dict) else None
        if isinstance(number, int) and number > FORMAT:
            raise UnreadableError(f"{self.path} is a checkpoint of format {number}, of a newer scriven; use that one")
        try:
            Manifest.model_validate(manifest)
        except ValidationError as error:
            raise InputError(f"{path} is damaged: {describe_errors(error)}; {OTHERS}") from None
        if self.path.name != folder_name(manifest["step"]):
            raise InputError(f"{self.path} says that it is of step {manifest['step']}; {OTHERS}")
        self._compare_seals(manifest.get("run"))
        values: dict[str, Any] = manifest
        return values

    def _compare_seals(self, saved: dict[str, str] | None) -> None:
        """Raises InputError when the run's vocabulary or settings are not those that the checkpoint was saved with."""
        if self.seals is None or saved is None:
            return
        same = {
            "vocabulary.json": saved["vocabulary"] == self.seals.vocabulary,
            "settings.toml": saved["settings"] in self.seals.settings,
        }
        for name, whole in same.items():
            if not whole:
                raise InputError(
                    f"{self.path.parents[1] / name} is not what it was when {self.path.name} was saved; take it from a "
                    "copy of the run (what may change in a run is changed by flags beside --resume)"
                )

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.manifest["step"])

    @property
    def number(self) -> int:
        """How many checkpoints of this run were saved up to this one: the newest has the largest number."""
        return int(self.manifest.get("number", 0))

    @property
    def epochs(self) -> float | None:
        """Passes over the training text when it was saved; None where it does not tell."""
        value = self.manifest.get("epochs")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < EPOCHS_LIMIT:
            return None
        return float(value)

    def weights(self, expected: Shapes | None = None) -> dict[str, Tensor]:
        """The model's parameters by name, on the CPU; they are finite.

        Where `expected` is given, a file whose header has other names or shapes is refused before its arrays are read.
        Raises InputError when the file is not what was written, or is not of that model.
        """
        return self._tensors(MODEL_FILE, expected)

    def training(self) -> dict[str, Tensor]:
        """Recurrent state and optimizer, as named tensors on the CPU; they are finite.

        Raises InputError when the file is not what was written.
        """
        return self._tensors(TRAINING_FILE)

    def verify(self, expected: Shapes, most: int) -> None:
        """Reads everything.

        Raises InputError when anything is missing, not what was written, or not of a model of these shapes, whose
        training state has so many bytes at `most`.
        """
        if self.manifest["files"][TRAINING_FILE]["bytes"] > most:
            raise InputError(f"{self.path / TRAINING_FILE} is larger than any of that model, {most:,} bytes; {OTHERS}")
        self.weights(expected)
        self.training()

    def _tensors(self, name: str, expected: Shapes | None = None) -> dict[str, Tensor]:
        path = self.path / name
        claimed = self.manifest["files"][name]
        data = read_checked(path, expected, claimed["bytes"])
        if hashlib.sha256(data).hexdigest() != claimed["sha256"]:
            raise InputError(f"{path} is damaged: its {len(data):,} bytes are not those that were written; {OTHERS}")
        tensors = decode(path, data)
        for part, values in tensors.items():
            if not finite(values):
                raise InputError(f"the arrays in {path} ({show_name(part)}) are not finite numbers; {OTHERS}")
        return tensors


def folder_name(step: int) -> str:
    """The name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def whole_epochs(epochs: float) -> int:
    """How many whole passes over the text there were; sums of parts of them may be a little below."""
    return math.floor(epochs + 1e-9)


def load_weights(model: nn.Module, checkpoint: Checkpoint, weights: dict[str, Tensor] | None = None) -> None:
    """Puts a checkpoint's weights into a model; or those given, which were made from them.

    Raises InputError when they cannot be read, or are not those of a model of this shape.
    """
    try:
        if weights is None:
            weights = checkpoint.weights({name: value.shape for name, value in model.state_dict().items()})
        model.load_state_dict(weights)
    except RuntimeError as error:
        if shortage(error):
            raise
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the weights in {checkpoint.path} do not fit the model's settings ({reason})") from None


def write_checkpoint(
    folder: Path,
    weights: dict[str, Tensor],
    training: dict[str, Tensor],
    manifest: dict[str, Any],
    *,
    keep_old: bool = False,
) -> Checkpoint:
    """Writes a checkpoint at `folder`: into a temporary folder, flushed to the disk, then renamed into place.

    One that is there already is removed; with `keep_old` it stays, as NAME.unread.
    Nothing else may write in the folder above. Raises OSError when the disk is full or may not be written to,
    InputError for a manifest that could not be read again; what was there before is untouched.
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
        raise InputError(f"{folder} cannot be saved so that it could be read again: {describe_errors(error)}") from None
    return Checkpoint(folder)


def _free_name(folder: Path) -> Path:
    """The name for a checkpoint that could not be read when its step was reached again."""
    names = (folder.with_name(f"{folder.name}{UNREAD}{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder.with_name(folder.name + UNREAD)], names) if not exists(path))


def sweep(folder: Path) -> None:
    """Removes what saves that were killed left there; what one had put aside, with nothing in its place, goes back.

    Raises OSError; InputError where the folder is a symbolic link, since what it leads to is not ours.
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
