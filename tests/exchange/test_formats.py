"""`scriven.export_model` and `import_model`: what the commands do, in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import scriven
from conftest import Command
from random_run import LETTERS, make_random_run
from scriven.errors import InputError, UsageError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_random_run(tmp_path_factory.mktemp("runs") / "book"))


@pytest.mark.parametrize("to", ["torch", "onnx", "transformers", "safetensors", "html"])
def test_an_export_is_that_of_the_command(to: Any, run: str, tmp_path: Path, command: Command) -> None:
    made = scriven.export_model(run, to, tmp_path / "python")
    said = json.loads(command("export", run, "--to", to, "--output", str(tmp_path / "command"), "--json").out)
    assert (made.format, made.step, [*made.notes]) == (said["format"], said["step"], said["notes"])
    assert made.largest_difference == said.get("largest_difference")
    contents = [
        {each.name: each.read_bytes() for each in ([path] if path.is_file() else path.iterdir())}
        for path in (made.path, tmp_path / "command")
    ]
    assert [*contents[0].values()] == [*contents[1].values()]


def test_an_exported_state_dict_is_imported_again(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    exported = scriven.export_model(run, "torch")
    assert exported.path == Path("book-torch")
    weights = next(exported.path.glob("*.pt*"))
    vocabulary = tmp_path / "symbols.json"
    vocabulary.write_text(json.dumps([*sorted(LETTERS), "\x00"]))  # the last one stands for `<unk>`
    made = scriven.import_model(weights, vocabulary=vocabulary)
    assert made.path == Path("runs", weights.stem) and made.program == "torch" and made.window == 0
    before, after = (
        scriven.load(path, precision="fp32").score("the old road led to the door") for path in (run, made.path)
    )
    assert after.total_nats == pytest.approx(before.total_nats, rel=1e-5)
    with pytest.raises(UsageError, match="already"):
        scriven.import_model(weights, vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("book", "word"), "to 'word': give 'torch'"),
        (("book", "torch", None, {"precision": "int8"}), "precision is for to onnx"),
        (("book", "onnx", None, {"with_counts": True}), "with_counts is for to html"),
        ((None, "onnx"), "run"),
    ],
)
def test_what_does_not_go_together_is_refused_in_words_of_python(values: Any, said: str) -> None:
    *given, more = values if isinstance(values[-1], dict) else (*values, {})
    with pytest.raises((UsageError, InputError), match=said):
        scriven.export_model(*given, **more)


def test_what_cannot_be_written_is_named(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    for to in ("torch", "html", "safetensors"):
        with pytest.raises(InputError, match=r"cannot write .*file.inside"):
            scriven.export_model(run, to, tmp_path / "file" / "inside")
    with pytest.raises(UsageError, match="zero character"):
        scriven.export_model(run, "torch", "a\0b")
    monkeypatch.setattr("scriven.exchange.folders.write_flushed", fail_for_space)
    with pytest.raises(InputError, match=r"cannot write .*new: No space left on device; free some space"):
        scriven.export_model(run, "torch", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


def fail_for_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_model_that_is_no_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="file"):
        scriven.import_model(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="activation 'sigmoid': give 'tanh'"):
        scriven.import_model(tmp_path / "model.pt", activation="sigmoid")  # type: ignore[arg-type]
