"""Commands with a run that has counts: what they say of the parts of a mixture, and how counts are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Command
from scriven.kernels import native_library
from scriven.settings import validate
from scriven.training.request import Request
from scriven.training.start import train

pytestmark = pytest.mark.skipif(native_library.level() == "off", reason="there is no native library")
WORDS = ["the cat", "a rat", "sat", "on a mat", "and", "spat", "ran", "at noon"]
SMALL: dict[str, Any] = {
    "budget": {"steps": 4},
    "model": {"width": 8, "layers": 1},
    "reader": {"batch": 4, "length": 16},
    "training": {"workers": 1, "threads": 1, "precision": "fp32"},
    "monitor": {"every_steps": 4, "sample_length": 0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and its text."""
    folder, random = tmp_path_factory.mktemp("counts"), np.random.default_rng(1)
    (folder / "tale.txt").write_text("\n".join(" ".join(random.choice(WORDS, 5)) for _ in range(500)))
    list(train(Request((str(folder / "tale.txt"),), validate(SMALL), folder / "run", initial="none")))
    return folder


def test_evaluate_shows_the_parts_beside_the_mixture(folder: Path, command: Command) -> None:
    run, text = str(folder / "run"), str(folder / "tale.txt")
    whole = json.loads(command("evaluate", run, "--json").out)
    network = json.loads(command("evaluate", run, "--json", "--counts", "none").out)
    assert whole["nats_per_char"] < whole["network_alone_nats_per_char"] == network["nats_per_char"]
    assert not [name for name in network if "alone" in name]
    words = command("evaluate", run).out
    assert "network alone bits/char" in words
    assert "counts alone bits/char" in words
    of_file = json.loads(command("evaluate", run, text, "--protocol", "window-32", "--json").out)
    scored = [json.loads(command("score", run, text, "--json", *more).out) for more in ((), ("--counts", "none"))]
    assert of_file["counts_alone_nats_per_char"] < 1
    assert scored[0]["nats"] < scored[1]["nats"]
    adaptive = json.loads(command("evaluate", run, text, "--protocol", "adaptive", "--json").out)
    assert not [name for name in adaptive if "alone" in name]  # it is of the network, and says so


def test_sample_writes_with_counts_or_without(folder: Path, command: Command) -> None:
    run = str(folder / "run")
    ways = {
        flags: command("sample", run, "--seed", "1", "--length", "60", *flags).out
        for flags in ((), ("--counts", "none"), ("--write-order", "6"), ("--write-order", "1"))
    }
    assert ways[()] == ways["--write-order", "6"]
    assert len(set(ways.values())) == 3
    assert command("sample", run, "--write-order", "0").code == 2


def test_info_and_doctor_know_the_counts(folder: Path, command: Command) -> None:
    run = str(folder / "run")
    assert ", counting alone " in command("info", run).out
    shown = json.loads(command("info", run, "--json").out)
    assert shown["counts"]["bytes"] > 1000
    assert shown["checkpoints"][0]["mixture"]["order"] == 6
    assert "counts.safetensors" in command("doctor", run).out
