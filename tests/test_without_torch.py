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
from scriven.model.language_model import make_model
from scriven.runs import create_run
from scriven.settings_values import validate
from scriven.trained_model import load
from scriven.vocabulary import Vocabulary

LETTERS = "\n abcdefg"
TEXT = "a bad cab\nbad\n\na dab: bee€\n" * 8
SETTINGS: dict[str, dict[str, Any]] = {
    "text": {"model": {"width": 24, "norm": "rms", "residual": True}},
    "lines": {"model": {"cell": "gru", "width": 20}, "corpus": {"documents": "lines"}, "reader": {"kind": "documents"}},
    "windows": {"model": {"cell": "mingru", "width": 24}, "reader": {"kind": "windows", "length": 6}},
    "rnn": {"model": {"cell": "rnn", "input": "onehot", "norm": "layer", "width": 24, "activation": "relu,tanh"}},
    "headless": {"model": {"head": "none", "width": 9}},
    "members": {"model": {"members": 2, "width": 12, "norm": "rms"}},
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
        ["doctor", "RUN"],
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
        model = make_model(settings.model, vocabulary.size)
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


UNNEEDED_TO_WRITE = {
    "concurrent.futures",
    "filelock",
    "logging",
    "scriven.corpus.zipped",
    "scriven.inference.boundaries",
    "scriven.inference.protocols",
    "scriven.inference.unit_tables",
    "scriven.report.plot",
    "scriven.runs.claim",
    "scriven.runs.saver",
    "tomli_w",
}


@needs_kernels
def test_the_first_character_does_not_wait_for_what_writing_does_not_need(places: dict[str, str]) -> None:
    code = (
        f"import sys; from scriven.cli import main; main(['sample', {places['text']!r}, '-n', '1'])\n"
        f"print(*sorted({UNNEEDED_TO_WRITE!r} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert done.stderr.split() == []


@needs_kernels
def test_archives_are_the_same_without_torch(places: dict[str, str], tmp_path: Path, command: Command) -> None:
    ways = {"start": "english", "run": places["text"]}
    commands = [
        ["compress", places["FILE"], "-o", str(tmp_path / name), "--with", way, "--quiet"] for name, way in ways.items()
    ]
    commands += [["decompress", f"{tmp_path / name}", "-o", f"{tmp_path / name}.txt", "--quiet"] for name in ("start",)]
    assert [code for code, *_ in run_without_torch(commands)] == [0] * 3
    assert (tmp_path / "start.txt").read_text("utf-8") == TEXT
    for name, way in ways.items():
        command("compress", places["FILE"], "-o", str(tmp_path / f"{name} with torch"), "--with", way, "--quiet")
        assert (tmp_path / f"{name} with torch").read_bytes() == (tmp_path / name).read_bytes()


NEEDING = [
    (["train", "FILE", "--steps", "1", "-o", "OUT"], "scriven train needs torch"),
    (["verify-resume", "FILE"], "scriven verify-resume needs torch"),
    (["score", "RUN", "FILE", "--adapt"], "learning while reading needs torch"),
    (["sample", "RUN", "--device", "cuda"], "device cuda needs torch"),
    (["score", "RUN", "FILE", "--precision", "bf16"], "reading in bf16 needs torch"),
]


def test_what_needs_torch_says_so_with_the_way_out(places: dict[str, str], tmp_path: Path) -> None:
    commands = [
        [str(tmp_path / "run") if word == "OUT" else word for word in fill(words, places, "text")]
        for words, _ in NEEDING
    ]
    for (words, said), (code, out, error) in zip(NEEDING, run_without_torch(commands), strict=True):
        sentence = f"scriven: {said}, which is not installed; install it with: pip install 'scriven[train]'"
        last = error.splitlines()[-1]  # without native code, a note comes before it
        assert (code, out, last) == (2, "", sentence), words


def test_python_says_so_too() -> None:
    code = (
        "from without_torch import hide_torch; hide_torch(); import scriven\n"
        "try: scriven.train\n"
        "except scriven.UsageError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parent
    )
    assert done.stdout == (
        "scriven.train needs torch, which is not installed; install it with: pip install 'scriven[train]'\n"
    )


def test_the_machine_is_described_without_torch() -> None:
    [(code, out, _)] = run_without_torch([["info", "--machine", "--json"]])
    assert code == 0
    facts = json.loads(out)
    assert facts["torch"] == "not installed; training needs it: pip install 'scriven[train]'"
    assert facts["kernels"] == native_library.level()


def test_without_native_code_too_numpy_answers_and_says_that_it_is_slow(places: dict[str, str]) -> None:
    commands = [
        fill(["sample", "RUN", "--seed", "1", "--length", "20"], places, "text"),
        fill(["score", "RUN", "FILE", "--json"], places, "text"),
        fill(["sample", "RUN", "--seed", "3", "--prompt", "a dab", "--length", "20"], places, "windows"),
    ]
    results = run_without_torch(commands, SCRIVEN_KERNELS="off")
    models = [load(words[1], device="cpu", precision="fp32") for words in commands]
    for code, _, error in results:
        assert code == 0
        assert error == (
            "note: numpy computes this model, slowly: there is neither native code (none, as SCRIVEN_KERNELS=off asks "
            "for) nor torch (pip install 'scriven[train]')\n"
        )
    texts = [models[0].sample(seed=1, length=20), "a dab" + models[2].sample("a dab", seed=3, length=20)]
    assert [results[0][1].removesuffix("\n"), results[2][1].removesuffix("\n")] == texts
    assert json.loads(results[1][1])["nats"] == pytest.approx(models[1].score(TEXT).nats, rel=1e-5)
