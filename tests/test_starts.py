"""Starts: how they are listed, found, checked and shown."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import WORDS, Command
from scriven import starts
from scriven.errors import InputError, UsageError
from scriven.runs.start_model import StartModel
from small_start import MODEL, make_start, use_starts, write_start

PACKAGED_BYTES = 4_000_000  # of a start, at most


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> starts.Start:
    use_starts(tmp_path / "starts", monkeypatch)
    return make_start(tmp_path / "starts", WORDS * 10)


def test_a_start_is_found_by_its_name_and_by_its_reference(tiny: starts.Start) -> None:
    assert "tiny" in starts.names()
    assert starts.find("tiny") == starts.from_reference(tiny.reference) == tiny
    assert starts.is_reference(tiny.reference) and not starts.is_reference("runs/tiny")


def test_an_unknown_name_is_told_with_those_that_there_are(tiny: starts.Start) -> None:
    with pytest.raises(UsageError, match=r"no start 'tinny'; .*tiny.*did you mean tiny"):
        starts.find("tinny")
    with pytest.raises(InputError, match="'other' is not in this version"):
        starts.from_reference("start:other@0")


def test_a_start_that_has_changed_is_refused(tiny: starts.Start) -> None:
    path = tiny.folder / starts.DESCRIPTION_FILE
    values = json.loads(path.read_text())
    values["files"][starts.WEIGHTS_FILE] = "0" * 64
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="the start tiny of this version of scriven has the hash"):
        starts.from_reference(tiny.reference)


@pytest.mark.parametrize("name", starts.MODEL_FILES)
def test_a_file_with_another_hash_is_refused_and_so_is_a_missing_one(tiny: starts.Start, name: str) -> None:
    data = (tiny.folder / name).read_bytes()
    (tiny.folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"is damaged: its SHA-256 is wrong; install scriven again"):
        StartModel(tiny).read_weights()
    (tiny.folder / name).unlink()
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        StartModel(tiny).read_weights()


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": None},
        {"title": 3},
        {"trained_characters": "many"},
        {"files": dict.fromkeys(starts.MODEL_FILES, 1)},
    ],
)
def test_a_damaged_description_is_refused(tiny: starts.Start, change: dict[str, object]) -> None:
    path = tiny.folder / starts.DESCRIPTION_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"start\.json is damaged"):
        starts.find("tiny")
    path.write_text("{")
    with pytest.raises(InputError, match=r"start\.json is damaged"):
        starts.find("tiny")


def test_weights_that_do_not_fit_are_refused_though_their_hash_is_right(tiny: starts.Start, tmp_path: Path) -> None:
    model = StartModel(tiny)
    weights = {name: value.bfloat16() for name, value in model.read_weights().items()}
    infinite = weights | {"head.bias": weights["head.bias"] * float("inf")}
    fewer = type(model.vocabulary)(model.vocabulary.unit, model.vocabulary.symbols[1:])
    cases = {
        "wide": (MODEL.model_copy(update={"width": 16}), model.vocabulary, weights, "do not fit its settings"),
        "fewer": (MODEL, fewer, weights, "do not fit its settings and its vocabulary"),
        "infinite": (MODEL, model.vocabulary, infinite, "not finite numbers in bf16"),
        "single": (MODEL, model.vocabulary, model.read_weights(), "not finite numbers in bf16"),
        "onehot": (MODEL.model_copy(update={"input": "onehot"}), model.vocabulary, weights, "needs an embedding"),
        "headless": (MODEL.model_copy(update={"head": "none"}), model.vocabulary, weights, "needs an embedding"),
        "odd": (MODEL.model_copy(update={"activation": "tanh,relu"}), model.vocabulary, weights, "names 2 activations"),
    }
    for name, (settings, vocabulary, arrays, said) in cases.items():
        start = write_start(tmp_path / "wrong" / name, settings, vocabulary, arrays)
        with pytest.raises(InputError, match=rf"is damaged: .*{said}.*; install scriven again"):
            StartModel(start).read_weights()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (starts.SETTINGS_FILE, b"[model]\nwidth = -1\n", "model.width"),
        (starts.SETTINGS_FILE, b"\xff", "utf-8"),
        (starts.VOCABULARY_FILE, b'{"unit": "character", "symbols": ["b", "a"]}', "vocabulary is damaged"),
        (starts.WEIGHTS_FILE, b"nothing", "it has no header"),
    ],
)
def test_files_that_are_no_model_are_refused(tiny: starts.Start, name: str, content: bytes, said: str) -> None:
    files = {each: tiny.read(each) for each in starts.MODEL_FILES} | {name: content}
    values = {"title": "", "languages": "", "licence": "", "trained_characters": 1, "card": ""}
    wrong = starts.write(tiny.folder.parent / "wrong", model=files, **values)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        StartModel(wrong).read_weights()


def test_what_is_no_start_is_not_written(tiny: starts.Start, tmp_path: Path) -> None:
    values = {"title": "", "languages": "", "licence": "", "trained_characters": 1, "card": ""}
    files = {each: tiny.read(each) for each in starts.MODEL_FILES}
    for name, content in (("auto", files), ("Big", files), ("small", {})):
        with pytest.raises(ValueError, match="is no start"):
            starts.write(tmp_path / name, model=content, **values)  # type: ignore[arg-type]


def test_the_command_lists_starts_and_prints_their_cards(tiny: starts.Start, command: Command) -> None:
    done = command("starts")
    assert done.out.startswith("tiny: a start for tests\n  0.0 MB, trained on 980 characters\n  languages: English\n")
    (row,) = map(json.loads, command("starts", "--json").out.splitlines())
    assert row["name"] == "tiny" and row["sha256"] == tiny.sha256 and row["bytes"] == tiny.size
    assert command("starts", "show", "tiny").out == "# A start for tests\n"
    done = command("starts", "show", "tin")
    assert done.code == 2 and "did you mean tiny" in done.err


def test_starts_are_listed_without_torch(tiny: starts.Start) -> None:
    code = "import sys; from scriven.cli import main; main(['starts']); print(*{'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "tiny: a start for tests" in done.stdout and done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("name", starts.names())
def test_a_start_of_the_package_is_whole_and_small(name: str) -> None:
    start = starts.find(name)
    model = StartModel(start)
    assert model.read_weights() and model.settings.width == 256
    assert start.size < PACKAGED_BYTES
    card = start.read_card()
    assert f"# The start {name}" in card and start.description.licence in card
    assert f"{start.description.trained_characters:,} characters" in card


def test_the_package_has_a_start_for_english_and_one_for_much_else() -> None:
    assert starts.names() == ["english", "general"]
