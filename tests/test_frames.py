"""The way from a command to the mathematics is short: the functions of the package on the stack, counted."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch

import scriven
from conftest import Command
from scriven.cli.sample import sample
from scriven.cli.train import train
from scriven.kernels import native_library
from scriven.model.cells import RecurrentLayer

PACKAGE = str(Path(scriven.__file__).parent)
# Own frames from the command on, at most: to a layer's forward, and to the sampler's native function.
TRAINING, SAMPLING = 9, 5
SMALL = ["--model.width", "8", "--reader.batch", "4", "--reader.length", "16", "--training.threads", "1"]


def frames_since(command: Callable[..., Any]) -> list[str]:
    """The functions of the package on the stack, the command's first; none outside of the command."""
    frame, names = sys._getframe(1), list[str]()
    while frame is not None:
        code: CodeType = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            names.append(f"{Path(code.co_filename).relative_to(PACKAGE)}: {code.co_qualname}")
        if code is command.__code__:
            return names[::-1]
        frame = frame.f_back  # type: ignore[assignment]
    return []


def show_longest(seen: list[list[str]]) -> str:
    return "\n".join(sorted(seen, key=len)[-1])


@pytest.fixture
def run(command: Command, book: Path, tmp_path: Path) -> str:
    path = str(tmp_path / "run")
    assert command("train", str(book), "--steps", "1", "-o", path, *SMALL).code == 0
    return path


def test_from_the_command_to_a_layer_in_training(
    command: Command, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[list[str]]()
    forward = RecurrentLayer.forward

    def spy(layer: RecurrentLayer, *arguments: Any, **named: Any) -> Any:
        names = frames_since(train)
        if torch.is_grad_enabled() and any("Trainer" in name for name in names):  # not where a speed is measured
            seen.append([*names, "model/cells.py: RecurrentLayer.forward"])
        return forward(layer, *arguments, **named)

    monkeypatch.setattr(RecurrentLayer, "forward", spy)
    assert command("train", str(book), "--steps", "3", "-o", str(tmp_path / "run"), *SMALL).code == 0
    assert len(seen) >= 3
    assert max(map(len, seen)) <= TRAINING, show_longest(seen)


@pytest.mark.skipif(native_library.level() == "off", reason=native_library.why())
def test_from_the_command_to_native_code_in_sampling(
    command: Command, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[list[str]]()
    declare = native_library.declare

    def spying_declare(name: str, *arguments: Any) -> Callable[..., Any]:
        function = declare(name, *arguments)

        def spy(*given: Any) -> Any:
            seen.append(frames_since(sample))
            return function(*given)

        return spy if name == "scriven_sampler_write" else function

    monkeypatch.setattr(native_library, "declare", spying_declare)
    assert len(command("sample", run, "--length", "90", "--seed", "1").out) >= 90
    assert len(seen) >= 2
    assert max(map(len, seen)) <= SAMPLING, show_longest(seen)
