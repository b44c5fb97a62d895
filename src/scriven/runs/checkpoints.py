"""Checkpoints: folders that exist whole or not at all. Weights are safetensors, the rest is JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scriven.durable import flush_folder
from scriven.errors import InputError
from scriven.runs.disk import read_json, real_folder, write_flushed
from scriven.runs.tensors import Shapes, decoded, encoded, read_checked

FORMAT = 1
MODEL_FILE, TRAINING_FILE, MANIFEST_FILE = "model.safetensors", "training.safetensors", "manifest.json"
OTHERS = "use another checkpoint of this run (scriven info lists them, --checkpoint and --resume take their steps)"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder. Nothing is read before it is asked for, and what is read is checked first."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the checkpoint says of itself: step, cursor, progress, counts, and its files' sizes and hashes.

        Raises InputError when it is missing, damaged or of a newer format.
        """
        for folder in (self.path.parent, self.path):
            real_folder(folder)
        manifest = read_json(self.path / MANIFEST_FILE)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise InputError(f"{self.path} is not a checkpoint of format {FORMAT}; a newer scriven may have written it")
        if not _is_complete(manifest):
            raise InputError(f"{self.path / MANIFEST_FILE} is damaged: it lacks what every manifest has; {OTHERS}")
        return manifest

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.manifest["step"])

    @property
    def number(self) -> int:
        """How many checkpoints of this run were saved up to this one: the newest has the largest number."""
        return int(self.manifest.get("number", 0))

    def weights(self, expected: Shapes | None = None) -> dict[str, Tensor]:
        """The model's parameters by name, on the CPU; they are finite.

        Where `expected` is given, a file whose header has other names or shapes is refused before its arrays are read.
        Raises InputError when the file is not what was written, or is not of that model.
        """
        tensors = self._tensors(MODEL_FILE, expected)
        for name, values in tensors.items():
            if not bool(values.isfinite().all()):
                raise InputError(f"the weights in {self.path} ({name}) are not finite numbers; {OTHERS}")
        return tensors

    def training(self) -> dict[str, Tensor]:
        """Recurrent state and optimizer, as named tensors on the CPU.

        Raises InputError when the file is not what was written.
        """
        return self._tensors(TRAINING_FILE)

    def verify(self, expected: Shapes) -> None:
        """Reads everything.

        Raises InputError when anything is missing, not what was written, or not of a model of these shapes.
        """
        if self.path.name != folder_name(self.step):
            raise InputError(f"{self.path} says that it is of step {self.step}; {OTHERS}")
        self.weights(expected)
        self.training()

    def _tensors(self, name: str, expected: Shapes | None = None) -> dict[str, Tensor]:
        path = self.path / name
        claimed = self.manifest["files"][name]
        data = read_checked(path, expected)
        if len(data) != claimed["bytes"] or hashlib.sha256(data).hexdigest() != claimed["sha256"]:
            raise InputError(
                f"{path} is damaged: its {len(data):,} bytes are not the {claimed['bytes']:,} that were written; "
                + OTHERS
            )
        return decoded(path, data)


def folder_name(step: int) -> str:
    """The name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def load_weights(model: nn.Module, checkpoint: Checkpoint, weights: dict[str, Tensor] | None = None) -> None:
    """Puts a checkpoint's weights into a model; or those given, which were made from them.

    Raises InputError when they cannot be read, or are not those of a model of this shape.
    """
    try:
        if weights is None:
            weights = checkpoint.weights({name: value.shape for name, value in model.state_dict().items()})
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the weights in {checkpoint.path} do not fit the model's settings ({reason})") from None


def write_checkpoint(
    folder: Path, weights: dict[str, Tensor], training: dict[str, Tensor], manifest: dict[str, Any]
) -> Checkpoint:
    """Writes a checkpoint at `folder`: into a temporary folder, flushed to the disk, then renamed into place.

    Nothing else may write in the folder above. Raises OSError when the disk is full or may not be written to; what was
    there before is untouched.
    """
    temporary, old = (folder.with_name(f".{folder.name}.{end}") for end in ("tmp", "old"))
    try:
        sweep(folder.parent)
        temporary.mkdir(parents=True)
        files = {}
        for name, tensors in ((MODEL_FILE, weights), (TRAINING_FILE, training)):
            files[name] = vars(write_flushed(temporary / name, *encoded(tensors)))
        manifest = {"format": FORMAT, **manifest, "files": files}
        write_flushed(temporary / MANIFEST_FILE, json.dumps(manifest, indent=1, allow_nan=False).encode())
        flush_folder(temporary)
        if folder.exists():  # the same step saved again, after a resume from before it
            folder.rename(old)
        temporary.rename(folder)
        flush_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError:
        with contextlib.suppress(OSError):
            sweep(folder.parent)
        raise
    return Checkpoint(folder)


def _is_complete(manifest: dict[str, Any]) -> bool:
    """Whether a manifest has what is always asked of it."""
    try:
        files = [manifest["files"][name] for name in (MODEL_FILE, TRAINING_FILE)]
        if len(manifest["files"]) > len(files):
            return False
        sized = all(isinstance(file["bytes"], int) and isinstance(file["sha256"], str) for file in files)
        return sized and all(_is_count(manifest.get(name, 0)) for name in ("number", "step")) and "step" in manifest
    except (KeyError, TypeError):
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def sweep(folder: Path) -> None:
    """Removes what saves that were killed left there; what one had put aside, with nothing in its place, goes back.

    Raises OSError.
    """
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".step-*.old"):
        place = path.with_name(path.stem.removeprefix("."))
        if place.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(place)
