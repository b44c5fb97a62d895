"""Commands with a run that has counts: what they say of the parts of a mixture, and how counts are left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Command
from scriven.kernels import native_library
from scriven.runs import open_run
from scriven.runtime import cache_folder
from scriven.settings_values import validate
from scriven.trained_model import load
from scriven.training.request import Request
from scriven.training.start import train

pytestmark = pytest.mark.skipif(native_library.level() == "off", reason="there is no native library")
WORDS = ["the cat", "a rat", "sat", "on a mat", "and", "spat", "ran", "at noon"]
NO_COUNTS = ("--counts", "none")
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


@pytest.mark.thorough
def test_counts_continue_beside_a_network_that_learns(folder: Path, command: Command) -> None:
    run, text = str(folder / "run"), str(folder / "tale.txt")
    adaptive = ["--protocol", "adaptive", "--json"]
    whole, network = (json.loads(command("evaluate", run, *adaptive, *flags).out) for flags in ((), NO_COUNTS))
    assert whole["nats_per_char"] < whole["network_alone_nats_per_char"] == network["nats_per_char"]
    assert whole["nats_per_char"] < 1.1 * whole["counts_alone_nats_per_char"]
    assert "accuracy" in network and "accuracy" not in whole
    assert not [name for name in network if "alone" in name]
    measured = json.loads(command("evaluate", run, text, *adaptive).out)
    adapt = ["--adapt", "--json"]
    scored, alone = (json.loads(command("score", run, text, *adapt, *flags).out) for flags in ((), NO_COUNTS))
    assert scored["nats"] == measured["nats"]
    assert alone["nats_per_char"] == measured["network_alone_nats_per_char"] > measured["nats_per_char"]
    model, tale = load(run), Path(text).read_text()
    assert model.score(tale, adapt=True).nats == model.score(tale, adapt=True).nats == scored["nats"]
    assert load(run, counts="none").score(tale, adapt=True).nats == pytest.approx(alone["nats"])
    by_characters = command("score", run, text, "--adapt", "--by", "character").out.splitlines()[1:]
    costs = [float(row.split("\t")[-2]) for row in by_characters]
    for cut in (0, 1, 77, 300):
        session = model.session(adapt=True)
        pieces = [session.score(each).surprisals for each in (tale[:cut], tale[cut : cut + 50], tale[cut + 50 :])]
        assert np.concatenate(pieces) == pytest.approx(costs, abs=1e-6)
        assert sum(piece.sum() for piece in pieces) == pytest.approx(scored["nats"], abs=1e-9)
    alone_session = load(run, counts="none").session(adapt=True)
    assert alone_session.score(tale).nats == pytest.approx(alone["nats"])


def test_ongoing_counts_need_the_training_text(folder: Path, command: Command) -> None:
    (folder / "gone.txt").write_text((folder / "tale.txt").read_text() + "a rat\n")
    run, text = str(folder / "gone"), str(folder / "tale.txt")
    list(train(Request((str(folder / "gone.txt"),), validate(SMALL), Path(run), initial="none")))
    shutil.rmtree(open_run(Path(run)).corpus_path)
    kept = command("score", run, text, "--adapt", "--json")  # its corpus is built again
    (folder / "gone.txt").unlink()
    shutil.rmtree(cache_folder())
    refused = command("score", run, text, "--adapt")
    assert (kept.code, refused.code) == (0, 3)
    assert "the corpus of " in refused.err and "adapt the network alone: --counts none" in refused.err
    assert command("score", run, text, "--adapt", *NO_COUNTS).code == 0
    assert command("score", run, text).code == 0


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
