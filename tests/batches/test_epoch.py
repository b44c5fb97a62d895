"""What an epoch is, in the numbers that the authors of the classic systems counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import Command
from scriven import recipes
from scriven.batches import next_batch
from scriven.batches.readers import EpochCounts, count_epoch, describe_epoch
from scriven.corpus import Corpus, Part
from scriven.corpus.build import build
from scriven.errors import describe_steps
from scriven.events import Started
from scriven.model.shapes import parameter_count, parameters_by_layer
from scriven.settings import CorpusSettings, ModelSettings, ReaderSettings
from scriven.settings_values import merge_settings, validate
from scriven.training.request import Request
from scriven.training.start import train
from scriven.vocabulary import Vocabulary

LETTERS = Vocabulary("character", tuple(range(74)))  # as many as who asked about Keras' example had
KERAS = ReaderSettings(kind="windows", length=40, stride=3, batch=128, loss="last")


class Text(Part):
    """A text of which nothing is known but its length."""

    def __init__(self, characters: int) -> None:
        self.characters = characters


@pytest.mark.parametrize(
    ("characters", "windows", "size", "words"),
    [
        (523_561, 174_507, 516_540_720, "174,507 windows of 40 in 1,364 steps; as one-hot arrays that would be 517 MB"),
        (
            17_560_921,
            5_853_627,
            17_326_735_920,
            "5,853,627 windows of 40 in 45,732 steps; as one-hot arrays that",
        ),
    ],
)
def test_windows_and_arrays_are_those_of_keras(characters: int, windows: int, size: int, words: str) -> None:
    assert windows == len(range(0, characters - 40, 3))  # as the example counts them
    counts = count_epoch(Text(characters), LETTERS, KERAS)
    assert (counts.windows, counts.input_bytes, counts.target_bytes) == (windows, size, windows * 74)
    assert describe_epoch(counts).startswith(words)


def test_seventeen_megabytes_do_not_fit() -> None:
    words = describe_epoch(count_epoch(Text(17_560_921), LETTERS, KERAS))
    assert words.endswith("; as one-hot arrays that would be 17.3 GB, and 434 MB to predict")


def corpus_of(tmp_path: Path, documents: str = "none") -> Corpus:
    (tmp_path / "text.txt").write_text("one line\nand another\nshort\n" * 7)
    settings = CorpusSettings.model_validate({"documents": documents, "validation": 0})
    return Corpus.open(build([str(tmp_path / "text.txt")], settings))


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("kind", ["stream", "windows", "documents"])
def test_the_steps_of_an_epoch_are_those_that_are_taken(tmp_path: Path, kind: str, pack: bool) -> None:
    corpus = corpus_of(tmp_path, "lines" if kind == "documents" else "none")
    values = {"kind": kind, "length": 20, "batch": 3, "stride": 3, "pack": pack}
    reader = ReaderSettings.model_validate(values)
    counts, cursor, predictions, steps = count_epoch(corpus.training, corpus.vocabulary, reader), 0, 0, 0
    while predictions < counts.predictions:
        batch, cursor = next_batch(corpus.training, corpus.vocabulary, reader, cursor)  # type: ignore[assignment]
        predictions, steps = predictions + batch.predictions, steps + 1
    assert steps - 1 < counts.steps <= steps
    assert count_epoch(corpus.training, corpus.vocabulary, reader, 2).steps == counts.steps / 2


def test_steps_that_cannot_be_told_are_not(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "lines")
    reader = ReaderSettings(kind="documents", length=4, pack=False)
    counts = count_epoch(corpus.training, corpus.vocabulary, reader)
    assert counts.steps == 0
    assert describe_epoch(counts) == "21 documents"


def test_numbers_of_steps_are_whole_where_they_are_large() -> None:
    assert [describe_steps(steps) for steps in (1, 1.5, 12, 3030.25)] == [
        "1 step",
        "1.50 steps",
        "12 steps",
        "3,030 steps",
    ]
    assert describe_epoch(EpochCounts(90, 0, 9, 0, 1.5, 0, 0)) == "90 predictions in 1.50 steps"


@pytest.mark.parametrize("recipe", recipes.names())
def test_the_parameters_of_layers_are_all_there_are(recipe: str) -> None:
    model = ModelSettings.model_validate(recipes.values(recipe)["model"] | {"embedding": 0})
    layers = parameters_by_layer(model, 62)
    assert sum(layers.values()) == parameter_count(model, 62)


def test_parameters_of_keras_example_are_those_of_its_summary() -> None:
    model = ModelSettings.model_validate(recipes.values("keras-text-generation")["model"])
    assert parameters_by_layer(model, 57) == {"layer 1": 4 * 128 * (57 + 128 + 1), "head": 57 * 129}


def test_a_training_and_its_run_tell_what_an_epoch_is(book: Path, tmp_path: Path, command: Command) -> None:
    asked = {"reader": vars(KERAS), "model": {"width": 8, "layers": 1}, "budget": {"steps": 1}}
    settings = validate(merge_settings(asked, {"training": {"workers": 1}, "monitor": {"sample_length": 1}}))
    started = next(train(Request((str(book),), settings, tmp_path / "run")))
    assert isinstance(started, Started)
    assert started.epoch_steps == 12
    (note,) = (note for note in started.notes if "windows" in note)
    assert note.startswith("An epoch is 1,487 windows of 40 in 12 steps; as one-hot arrays that would be")
    told = command("info", str(tmp_path / "run"), "--layers").out
    assert "1,487 windows of 40 in 12 steps" in told
    assert "layers            layer 1: 8 to 8, 576 parameters\n" in told
    row = json.loads(command("info", str(tmp_path / "run"), "--layers", "--json").out)
    assert (row["epoch"]["windows"], row["epoch"]["steps"]) == (1487, 12)
    assert sum(layer["parameters"] for layer in row["layers"]) == row["parameters"]
    (Corpus.open(row["corpus"]).path / "corpus.json").unlink()  # type: ignore[operator]
    assert "windows of" not in command("info", str(tmp_path / "run")).out
    assert command("info", "--layers", "--machine").code == 2


def test_a_corpus_tells_what_an_epoch_of_it_is(tmp_path: Path, command: Command) -> None:
    path = corpus_of(tmp_path).name
    assert "epoch" not in command("corpus", "info", path).out
    flags = ["--reader.kind", "windows", "--reader.length", "40", "--reader.stride", "3", "--reader.batch", "10"]
    assert "an epoch       50 windows of 40 in 5 steps; as one-hot" in command("corpus", "info", path, *flags).out
    assert json.loads(command("corpus", "info", path, *flags, "--json").out)["epoch"]["windows"] == 50
    done = command("corpus", "info", path, "--reader.kind", "documents")
    assert done.code == 2
    assert "say what counts as one document" in done.err


def test_a_corpus_shows_characters_ids_and_a_batch(tmp_path: Path, command: Command) -> None:
    path = corpus_of(tmp_path, "lines").name
    flags = ["--show", "8", "--reader.batch", "5", "--reader.length", "10"]
    out = command("corpus", "info", path, *flags).out
    assert "characters     'o' 'n' 'e' ' ' 'l' 'i' 'n' 'e'\ntheir ids      8 7 3 0 6 5 7 3\n" in out
    assert "as text again  'one line'\n" in out
    assert "first batch    10 characters in each of 5 rows\n" in out
    facts = json.loads(command("corpus", "info", path, *flags, "--json").out)
    assert facts["shown"]["ids"] == [8, 7, 3, 0, 6, 5, 7, 3]
    assert facts["shown"]["text"] == "one line" == "".join(facts["shown"]["characters"])
    rows = facts["shown"]["batch"]["rows"]
    assert len(rows) == 5
    for row in rows:
        assert row["reads"][1:] == row["predicts"][:-1]
        assert (row["counts"], row["fresh"][0]) == (10, 0)
