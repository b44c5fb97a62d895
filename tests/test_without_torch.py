"""Writing, scoring and serving where torch is not installed, or is there and not imported: the same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Command
from scriven.kernels import native_library
from scriven.model import CharLM
from scriven.runs import create_run
from scriven.settings import validate
from scriven.vocabulary import Vocabulary

LETTERS = "\n abcdefg"
TEXT = "a bad cab\nbad\n\na dab: bee€\n" * 8
SETTINGS: dict[str, dict[str, Any]] = {
    "text": {"model": {"width": 24, "norm": "rms", "residual": True}},
    "lines": {"model": {"cell": "gru", "width": 20}, "corpus": {"documents": "lines"}, "reader": {"kind": "documents"}},
    "windows": {"model": {"cell": "mingru", "width": 24}, "reader": {"kind": "windows", "length": 6}},
    "rnn": {"model": {"cell": "rnn", "input": "onehot", "norm": "layer", "width": 24, "activation": "relu,tanh"}},
    "headless": {"model": {"head": "none", "width": 9}},
}
COMMANDS = {
    "text": [
        ["sample", "RUN", "--seed", "1", "--length", "90", "--prompt", "a bad"],
        ["sample", "RUN", "--seed", "1", "--length", "40", "--count", "3", "--json"],
        ["score", "RUN", "FILE"],
        ["score", "RUN", "FILE", "--by", "character"],
        ["evaluate", "RUN", "FILE", "--protocol", "window-16", "--json"],
        ["evaluate", "RUN", "FILE", "--protocol", "last-5", "--json"],
        ["info", "RUN", "--layers", "--json"],
    ],
    "lines": [
        ["sample", "RUN", "--seed", "2", "--until-end", "--count", "4"],
        ["score", "RUN", "FILE", "--by", "line", "--json"],
    ],
    "windows": [["sample", "RUN", "--seed", "3", "--prompt", "a dab and", "--length", "60"], ["score", "RUN", "FILE"]],
    "rnn": [["sample", "RUN", "--seed", "4", "--length", "60"], ["score", "RUN", "FILE"]],
    "headless": [["sample", "RUN", "--seed", "5", "--length", "60"], ["score", "RUN", "FILE"]],
}
needs_kernels = pytest.mark.skipif(native_library.level() == "off", reason=native_library.why())


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folders of runs by name, and a text as FILE."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT, "utf-8")
    found = {"FILE": str(folder / "text.txt")}
    for name, values in SETTINGS.items():
        settings = validate(values)
        vocabulary = Vocabulary.of(LETTERS, "\n" if name == "lines" else None)
        torch.manual_seed(1)
        model = CharLM(settings.model, vocabulary.size)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2).add_(torch.randn_like(parameter) / 8)
        run = create_run(folder / name, settings, vocabulary, {"texts": [], "corpus": ""})
        run.save(model.state_dict(), {}, {"step": 1, "validation": {}}, best=1)
        found[name] = str(run.path)
    return found


def fill(words: list[str], places: dict[str, str], run: str) -> list[str]:
    return [places[run] if word == "RUN" else places.get(word, word) for word in words]


def run_without_torch(commands: list[list[str]], **environment: str) -> list[tuple[int, str, str]]:
    """The exit code and the output of each command, in one process without torch."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("without_torch.py")), json.dumps(commands)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return [(code, out, error) for code, out, error in json.loads(done.stdout)]


@needs_kernels
def test_the_answers_are_the_same_without_torch(places: dict[str, str], command: Command) -> None:
    asked = [fill(words, places, run) for run, commands in COMMANDS.items() for words in commands]
    for words, (code, out, error) in zip(asked, run_without_torch(asked), strict=True):
        expected = command(*words)
        assert (code, out, error) == (0, expected.out, expected.err), words


@needs_kernels
def test_torch_is_not_imported_to_write_and_score(places: dict[str, str]) -> None:
    commands = [["info", places["text"]], *(fill(words, places, "text") for words in COMMANDS["text"])]
    code = (
        "import json, sys; from scriven.cli import main\n"
        f"for words in json.loads({json.dumps(json.dumps(commands))}): main(words)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
