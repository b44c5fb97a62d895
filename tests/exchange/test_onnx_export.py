"""`scriven export --to onnx`: onnxruntime computes what Scriven does, in any batch and in pieces of any length."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conftest import Command
from random_run import LETTERS, make_random_run
from scriven.exchange import onnx_graph
from scriven.exchange.exported import read_exported
from scriven.trained_model import load
from scriven.vocabulary import Vocabulary

Values = npt.NDArray[Any]
needs_onnx = pytest.mark.skipif(
    find_spec("onnx") is None or find_spec("onnxruntime") is None, reason="needs onnx and onnxruntime"
)
MODELS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "lstm of relu": {"activation": "relu,tanh"},
    "gru": {"cell": "gru"},
    "rnn": {"cell": "rnn", "activation": "tanh,relu"},
    "one-hot": {"input": "onehot"},
    "without an output layer": {"head": "none", "cell": "gru"},
    "tied, residual and rms": {"tied": True, "residual": True, "norm": "rms", "layers": 3},
    "layer norm, another embedding": {"norm": "layer", "embedding": 5},
    "two members": {"members": 2, "norm": "rms"},
}


def open_session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def compute(session: Any, ids: Values, lengths: Sequence[int]) -> Values:
    """The logits (T, N, V) of ids (T, N), read in pieces of these lengths from zeros on."""
    state: Mapping[str, Values] = {
        each.name: np.zeros((ids.shape[1], each.shape[1]), np.float32) for each in session.get_inputs()[1:]
    }
    found = []
    for piece in np.split(ids, np.cumsum(lengths)):
        logits, *after = session.run(None, {"ids": piece, **state})
        state = dict(zip(state, after, strict=True))
        found.append(logits)
    return np.concatenate(found)


@needs_onnx
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_the_same_logits(name: str, precision: str, command: Command, tmp_path: Path) -> None:
    run, path = make_random_run(tmp_path / "run", model=MODELS[name]), tmp_path / "model.onnx"
    words = ["export", str(run), "--to", "onnx", "--precision", precision, "-o", str(path), "--json"]
    done = command(*words)
    assert done.code == 0, done.err
    assert json.loads(done.out)["largest_difference"] < 1e-5
    session, network = open_session(path), read_exported(str(run)).network
    ids = np.random.default_rng(1).integers(len(LETTERS) + 1, size=(23, 4))
    wanted, _ = network.read(ids, None, None)
    found = compute(session, ids, [5, 1, 10])
    assert np.allclose(found, wanted, atol=1e-4 if precision == "fp32" else 0.05 * np.abs(wanted).max())
    np.testing.assert_allclose(compute(session, ids[:, 1:2], [7]), found[:, 1:2], atol=1e-5)


@needs_onnx
def test_losses_are_those_of_score(command: Command, tmp_path: Path) -> None:
    run, path = make_random_run(tmp_path / "run", Vocabulary.of(LETTERS), model={"layers": 1}), tmp_path / "model.onnx"
    assert command("export", str(run), "--to", "onnx", "-o", str(path)).out == f"{path}\n"
    session = open_session(path)
    metadata = session.get_modelmeta().custom_metadata_map
    config, vocabulary = json.loads(metadata["config"]), Vocabulary.from_json(metadata["vocabulary"])
    text = "all the old, dark roads led to the bar€\n" * 20
    ids = vocabulary.clamp(vocabulary.encode(text))
    read = np.concatenate((config["opening"], ids))
    logits = compute(session, read[:-1, None], [9])[:, 0].astype(np.float64)
    costs = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(ids)), ids]
    costs += config["unknown_nats"] * (ids == config["unknown"])
    wanted = load(run, precision="fp32").score(text)
    assert costs.mean() == pytest.approx(wanted.nats_per_char, abs=1e-5)


@needs_onnx
def test_int8_takes_about_a_quarter(command: Command, tmp_path: Path) -> None:
    run = make_random_run(tmp_path / "run", model={"width": 128})
    for precision in ("fp32", "int8"):
        words = ["export", str(run), "--to", "onnx", "--precision", precision, "-o", str(tmp_path / precision)]
        assert command(*words).code == 0
    assert (tmp_path / "int8").stat().st_size < 0.28 * (tmp_path / "fp32").stat().st_size


@needs_onnx
def test_a_wrong_graph_is_not_kept(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onnx_graph.GATES_OF_ONNX, "lstm", ("input", "forget", "new", "output"))
    done = command("export", str(make_random_run(tmp_path / "run")), "--to", "onnx", "-o", str(tmp_path / "model.onnx"))
    assert done.code == 3
    assert "does not compute what the run does" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("settings", "more", "reason"),
    [
        ({"cell": "mingru"}, [], "no operator for the cell mingru"),
        ({}, ["--to", "torch", "--precision", "int8"], "drop --precision"),
    ],
)
def test_what_cannot_be_is_refused(
    settings: dict[str, Any], more: list[str], reason: str, command: Command, tmp_path: Path
) -> None:
    run = make_random_run(tmp_path / "run", model=settings)
    done = command("export", str(run), *(more or ["--to", "onnx"]), "-o", str(tmp_path / "out"))
    assert done.code == 2
    assert reason in done.err
    assert not (tmp_path / "out").exists()


def test_without_onnx_the_error_says_what_to_install(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.split(".", maxsplit=1)[0] in ("onnx", "onnxruntime"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    run = make_random_run(tmp_path / "run")
    monkeypatch.setattr(builtins, "__import__", refuse)
    done = command("export", str(run), "--to", "onnx", "-o", str(tmp_path / "out"))
    assert done.code == 2
    assert "needs onnx, which is not installed; install it with: pip install 'scriven[onnx]'" in done.err
    assert not (tmp_path / "out").exists()
