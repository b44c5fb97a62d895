"""Checkpoints: folders that exist whole or not at all. Weights are safetensors, the rest is JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from scriven.errors import InputError

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

    def weights(self) -> dict[str, Tensor]:
        """The model's parameters by name, on the CPU."""
        return self._tensors(MODEL_FILE)

    def training(self) -> dict[str, Tensor]:
        """Recurrent state and optimizer, as named tensors on the CPU."""
        return self._tensors(TRAINING_FILE)

    def _tensors(self, name: str) -> dict[str, Tensor]:
        path = self.path / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        expected = self.manifest["files"][name]
        if len(data) != expected["bytes"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise InputError(
                f"{path} is damaged: its {len(data):,} bytes are not the {expected['bytes']:,} that were written; "
                + OTHERS
            )
        try:
            return safetensors.torch.load(data)
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from None


def load_weights(model: nn.Module, checkpoint: Checkpoint, weights: dict[str, Tensor] | None = None) -> None:
    """Puts a checkpoint's weights into a model; or those given, which were made from them.

    Raises InputError when they cannot be read, or are not those of a model of this shape.
    """
    try:
        model.load_state_dict(checkpoint.weights() if weights is None else weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the weights in {checkpoint.path} do not fit the model's settings ({reason})") from None


def write_checkpoint(
    folder: Path, weights: dict[str, Tensor], training: dict[str, Tensor], manifest: dict[str, Any]
) -> Checkpoint:
    """Writes a checkpoint at `folder`: into a temporary folder, flushed to the disk, then renamed into place.

    Nothing else may write in the folder above. Raises InputError when the disk is full or may not be written to; what
    was there before is untouched.
    """
    temporary, old = (folder.with_name(f".{folder.name}.{end}") for end in ("tmp", "old"))
    try:
        _tidy(folder.parent)
        temporary.mkdir(parents=True)
        files = {}
        for name, tensors in ((MODEL_FILE, weights), (TRAINING_FILE, training)):
            data = safetensors.torch.save({key: value.contiguous().cpu() for key, value in tensors.items()})
            write_flushed(temporary / name, data)
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest = {"format": FORMAT, **manifest, "files": files}
        write_flushed(temporary / MANIFEST_FILE, json.dumps(manifest, indent=1).encode())
        flush_folder(temporary)
        if folder.exists():  # the same step saved again, after a resume from before it
            folder.rename(old)
        temporary.rename(folder)
        flush_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        with contextlib.suppress(OSError):
            _tidy(folder.parent)
        raise InputError(
            f"cannot save a checkpoint at {folder}: {error.strerror}; free some space or allow writing, "
            "then continue with --resume"
        ) from error
    return Checkpoint(folder)


def _is_complete(manifest: dict[str, Any]) -> bool:
    """Whether a manifest has what is always asked of it."""
    try:
        files = [manifest["files"][name] for name in (MODEL_FILE, TRAINING_FILE)]
        sized = all(isinstance(file["bytes"], int) and isinstance(file["sha256"], str) for file in files)
        return sized and isinstance(manifest["step"], int)
    except (KeyError, TypeError):
        return False


def _tidy(folder: Path) -> None:
    """Removes what saves that were killed left there; what one had put aside, with nothing in its place, goes back."""
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".step-*.old"):
        place = path.with_name(path.stem.removeprefix("."))
        if place.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(place)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part; nothing else may write it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_flushed(temporary, data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises InputError when it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def write_flushed(path: Path, data: bytes) -> None:
    """Writes a file and waits until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Waits until the disk has the folder's names, on systems that can be asked to."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
