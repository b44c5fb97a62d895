"""`scriven export --to torch` and `--to safetensors`: the same losses in a process that does not import Scriven."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from conftest import Command
from random_run import LETTERS, make_random_run
from scriven.exchange import plain_torch
from scriven.exchange.exported import read_exported
from scriven.exchange.folders import loader_source, write_torch
from scriven.vocabulary import Vocabulary

TEXT = "all the old, dark\nroads led to the bar€ and the halt\n" * 20
CLOSE = 1e-5  # nats per character
DOCUMENTS = Vocabulary.of(LETTERS.strip("\n"), "\n")
TOKENS = Vocabulary.of_tokens(["all", "the", "old,", "led", "\n", "halt", "of"])
LINES = {"corpus": {"documents": "lines"}}
PIECES = {"corpus": {"documents": "separator", "separator": "He"}}

MODELS: dict[str, tuple[Vocabulary | None, dict[str, Any]]] = {
    "lstm": (None, {}),
    "gru": (None, {"model": {"cell": "gru"}}),
    "rnn": (None, {"model": {"cell": "rnn"}}),
    "rnn of two activations": (None, {"model": {"cell": "rnn", "activation": "tanh,relu"}}),
    "one-hot": (None, {"model": {"input": "onehot"}}),
    "one-hot gru without an output layer": (None, {"model": {"input": "onehot", "cell": "gru", "head": "none"}}),
    "another embedding, one bias": (None, {"model": {"embedding": 5, "hidden_bias": False}}),
    "tied": (None, {"model": {"tied": True}}),
    "residual and rms": (None, {"model": {"residual": True, "norm": "rms", "layers": 3}}),
    "layer norm": (None, {"model": {"norm": "layer", "cell": "gru"}}),
    "two members": (None, {"model": {"members": 2, "tied": True, "residual": True, "norm": "rms"}}),
    "two members, one-hot": (None, {"model": {"members": 2, "input": "onehot"}}),
    "lines": (DOCUMENTS, LINES),
    "pieces, in lower case": (Vocabulary.of(LETTERS, "He"), {"corpus": PIECES["corpus"] | {"lowercase": True}}),
    "files": (Vocabulary.of(LETTERS, "\n"), {"corpus": {"documents": "files"}}),
    "bytes": (Vocabulary.of_bytes(), {"corpus": {"unit": "byte"}}),
    "bytes of lines": (Vocabulary.of_bytes("\n"), {"corpus": {"unit": "byte", "documents": "lines"}}),
    "tokens": (TOKENS, {"corpus": {"unit": "token"}}),
    "tokens of lines": (replace(TOKENS, separator="\n"), {"corpus": {"unit": "token", "documents": "lines"}}),
    "no line end": (Vocabulary.of(LETTERS.strip("\n")), {}),
    "plain punctuation": (None, {"corpus": {"punctuation": "ascii", "normalize": "nfc"}}),
    "windows": (None, {"reader": {"kind": "windows", "length": 5}}),
}
ALONE = """
import importlib.util, json, sys, torch
torch.set_num_threads(1)
found = {}
for folder, file in json.load(sys.stdin):
    spec = importlib.util.spec_from_file_location("loader", folder + "/load_scriven.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    costs, ends = loader.load(folder).nats(open(file, encoding="utf-8", newline="").read())
    found[folder] = costs.sum().item(), len(costs), ends.sum().item(), len(ends)
assert not [name for name in sys.modules if name.split(".")[0] in ("scriven", "safetensors", "pydantic")]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, list[float]]]:
    """The run of each model, a text, and the text's losses by the loader, in one process that has no Scriven."""
    made = {}
    for number, (name, (vocabulary, settings)) in enumerate(MODELS.items()):
        folder = tmp_path_factory.mktemp(f"model-{number}")
        end = "\u201cHe\u201d\r\nho \u2014 e\u0301\n" if "plain" in name else "Hello\r\n\n"
        (folder / "text.txt").write_text(TEXT + end, "utf-8", newline="")
        run = make_random_run(folder / "run", vocabulary, **settings)
        assert write_torch(read_exported(str(run)), folder / "exported") < CLOSE
        made[name] = run, folder / "text.txt", str(folder / "exported")
    given = json.dumps([(folder, str(file)) for _, file, folder in made.values()])
    words, quietly = [sys.executable, "-IB", "-c", ALONE], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=200, check=True, env=quietly)
    found = json.loads(done.stdout)
    return {name: (run, file, found[folder]) for name, (run, file, folder) in made.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_loader_gives_the_losses_of_score(
    name: str, command: Command, losses: dict[str, tuple[Path, Path, list[float]]]
) -> None:
    run, file, (nats, characters, end_nats, ends) = losses[name]
    wanted = json.loads(command("score", str(run), str(file), "--json", "--precision", "fp32").out)
    assert (characters, ends) == (wanted["characters"], wanted.get("ends", 0))
    assert nats / characters == pytest.approx(wanted["nats_per_char"], abs=CLOSE)
    assert end_nats / max(ends, 1) == pytest.approx(wanted.get("end_nats", 0) / max(ends, 1), abs=CLOSE)


def test_a_folder_appears_whole(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "there" / "exported"
    done = command("export", str(make_random_run(tmp_path / "run")), "--to", "torch", "-o", str(folder), "--json")
    assert json.loads(done.out)["largest_difference"] < CLOSE
    names = ["config.json", "load_scriven.py", "model.pt", "vocabulary.json"]
    assert sorted(each.name for each in folder.iterdir()) == names
    assert [*folder.parent.iterdir()] == [folder]


def test_weights_fit_one_plain_lstm(command: Command, tmp_path: Path) -> None:
    """As docs/format.md says: layers.K.NAME_l0 is NAME_lK of one nn.LSTM of all layers."""
    run, folder = make_random_run(tmp_path / "run"), tmp_path / "exported"
    assert command("export", str(run), "--to", "torch", "-o", str(folder)).out == f"{folder}\n"
    weights = torch.load(folder / "model.pt", weights_only=True)
    size = weights["head.bias"].numel()
    parts = nn.ModuleDict({"embedding": nn.Embedding(size, 8), "rnn": nn.LSTM(8, 8, 2), "head": nn.Linear(8, size)})
    named = {
        f"rnn.{name.removeprefix('layers.')[2:-1]}{name.split('.')[1]}" if name.startswith("layers") else name: each
        for name, each in weights.items()
    }
    parts.load_state_dict(named)
    ids = torch.randint(size, (20, 3), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y, _ = parts["rnn"](parts["embedding"](ids))
        wanted, _ = plain_torch.load(folder)(ids)
        assert torch.allclose(parts["head"](y), wanted, atol=1e-5)


def test_text_is_written_until_a_document_ends(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    command("export", str(make_random_run(tmp_path / "run", DOCUMENTS, **LINES)), "--to", "torch", "-o", str(folder))
    model = plain_torch.load(folder)
    texts = [model.sample("the ", 200, seed=seed) for seed in range(3)]
    assert len(set(texts)) == 3
    assert model.sample("the ", 200, seed=2) == texts[2]
    assert all(text.count("\n") == text.endswith("\n") for text in texts)
    assert not any("\ufffd" in text for text in texts)


def test_text_of_windows_depends_on_the_window_alone(command: Command, tmp_path: Path) -> None:
    run = make_random_run(tmp_path / "run", reader={"kind": "windows", "length": 5})
    done = command("export", str(run), "--to", "torch", "-o", str(tmp_path / "exported"))
    assert "windows of 5 characters" in done.err
    model = plain_torch.load(tmp_path / "exported")
    assert model.sample("a lot of trolls", 30) == model.sample("ed to rtrolls", 30)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": {"cell": "mingru"}}, "--to safetensors"),
        ({"model": {"activation": "relu"}}, "torch's LSTM has no activation but tanh"),
        ({"model": {"kind": "counts"}}, "scriven pack"),
    ],
)
def test_what_torch_cannot_hold_is_refused(
    settings: dict[str, Any], reason: str, command: Command, tmp_path: Path
) -> None:
    run = make_random_run(tmp_path / "run", **settings)
    done = command("export", str(run), "--to", "torch", "-o", str(tmp_path / "exported"))
    assert done.code == 2
    assert reason in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_nothing_is_replaced(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_random_run(tmp_path / "run")
    Path("run-safetensors").mkdir()
    Path("run-safetensors/mine").touch()
    done = command("export", str(run), "--to", "safetensors")
    assert done.code == 2
    assert "exists" in done.err
    assert [path.name for path in Path("run-safetensors").iterdir()] == ["mine"]
    Path("run-safetensors/mine").unlink()
    assert command("export", "run", "--to", "safetensors").out == "run-safetensors\n"


@pytest.mark.parametrize("cell", ["lstm", "mingru"])
def test_safetensors_say_all_that_computes_the_model(cell: str, command: Command, tmp_path: Path) -> None:
    run = make_random_run(tmp_path / "run", Vocabulary.of(LETTERS, "\n"), **LINES, model={"cell": cell, "tied": True})
    assert command("export", str(run), "--to", "safetensors", "-o", str(tmp_path / "exported")).code == 0
    config = json.loads((tmp_path / "exported" / "config.json").read_text("utf-8"))
    weights = load_file(tmp_path / "exported" / "model.safetensors")
    size = len(LETTERS) + 2
    assert (config["cell"], config["vocabulary_size"], config["boundary"]) == (cell, size, size - 2)
    assert config["unknown_nats"] == pytest.approx(math.log(0x110000 - size))
    assert config["opening"] == [size - 2]
    assert weights["embedding.weight"].shape == (size, 8)
    np.testing.assert_allclose(weights["embedding.weight"][-1], weights["embedding.weight"][:-1].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(weights["embedding.weight"][:-1], weights["head.weight"][:-1])
    assert "secret" not in json.dumps(config) + (tmp_path / "exported" / "vocabulary.json").read_text("utf-8")


def test_the_loader_is_printed(command: Command) -> None:
    done = command("export", "--to", "torch", "--loader")
    assert done.out == loader_source()
    assert "import scriven" not in done.out and "from scriven" not in done.out
    assert command("export", "--to", "safetensors", "--loader").code == 2
    assert command("export", "--to", "torch").code == 2
