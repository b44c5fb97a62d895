"""What programs pass that cannot be meant: one sentence that helps, in the words of Python."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scriven
from scriven.arguments import check_path, in_python
from scriven.model import CharLM
from scriven.runs import create_run
from scriven.settings_values import validate
from scriven.trained_model import Model
from scriven.vocabulary import Vocabulary

FLAG = re.compile(r"(?<![\w-])--?[a-z]")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("runs") / "book"
    settings, vocabulary = validate({"model": {"width": 8, "layers": 1}}), Vocabulary.of("\n abc")
    made = create_run(folder, settings, vocabulary, {"texts": [], "corpus": ""})
    made.save(CharLM(settings.model, vocabulary.size).state_dict(), {}, {"step": 1, "validation": {}}, best=1)
    return scriven.load(folder)


def refusal_of(call: Callable[..., object], *values: Any, **named: Any) -> str:
    """The sentence of a call that is refused, which names no flag and comes from no library."""
    with pytest.raises(scriven.UsageError) as refused:
        call(*values, **named)
    assert not FLAG.search(str(refused.value)), refused.value
    return str(refused.value)


WRONG_TEXTS = {
    "read_text('utf-8')": Path("book.txt"),
    "is None": None,
    "data.decode('utf-8')": b"abc",
    "is an int": 5,
    "is a float": float("nan"),
}


@pytest.mark.parametrize(("way", "text"), WRONG_TEXTS.items())
def test_what_is_no_text_is_refused(model: Model, way: str, text: Any) -> None:
    session = model.session()
    assert way in refusal_of(model.score, ["a", text])
    assert way in refusal_of(model.sample, ["a", text])
    functions: list[Callable[..., object]] = [model.score, model.sample, model.stream, model.encode, model.read_ids]
    for function in [*functions, model.prepare, model.unknown_characters, session.read, session.score]:
        assert way in refusal_of(function, text)
    assert way in refusal_of(model.samples, 2, text)
    assert way in refusal_of(list, model.surprisals([text]))


@pytest.mark.parametrize(
    ("values", "way"),
    [
        ({"length": 1.5}, "length 1.5: give a whole number"),
        ({"length": "9"}, "length '9': give a whole number"),
        ({"length": None}, "length None: give a whole number"),
        ({"length": True}, "length True: give 0 or more"),
        ({"seed": 1.5}, "seed 1.5: give a whole number"),
        ({"seed": "one"}, "seed 'one': give a whole number"),
        ({"seed": np.random.default_rng(1)}, "give a whole number"),
        ({"stop": None}, "stop None: give a list of strings"),
        ({"stop": b"x"}, "stop b'x': give a list of strings"),
        ({"stop": [5]}, "stop [5]: give a list of strings"),
        ({"stop": {"a": 1}}, "stop {'a': 1}: give a list of strings"),
        ({"stop": np.array("a")}, "give a list of strings"),
        ({"until_end": "no"}, "until_end 'no': give True or False"),
        ({"temperature": None}, "temperature None"),
        ({"temperature": "hot"}, "temperature 'hot': give a number"),
        ({"temperature": -1}, "temperature -1: give 0 or more"),
        ({"top_k": 1.5}, "top_k 1.5: give a whole number"),
    ],
)
def test_choices_of_another_type_are_named(model: Model, values: dict[str, Any], way: str) -> None:
    assert way in refusal_of(model.sample, **values)
    assert way in refusal_of(model.stream, **values)
    assert way in refusal_of(model.samples, 2, **values)


def test_several_texts_are_for_score_and_sample_alone(model: Model) -> None:
    for function in (model.stream, model.encode, model.prepare, model.session().read, model.session().score):
        assert "call it again for the others" in refusal_of(function, ["a", "b"])
    for name in ("temp", "topp"):
        with pytest.raises(scriven.UsageError, match=f"{name}: there is no such setting"):
            model.sample(**{name: 1})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("ids", "way"),
    [
        ("abc", "ids 'abc': give a list of whole numbers, as encode returns"),
        (None, "ids None: give a list"),
        (b"x", "ids b'x': give a list"),
        (5, "ids 5: give a list"),
        ([1.0], "ids [1.0]: give a list"),
        ([True], "ids [True]: give a list"),
        (["a"], "ids ['a']: give a list"),
        ([[1, 2]], "ids [[1, 2]]: give a list"),
        ([[1], [2, 3]], "ids [[1], [2, 3]]: give a list"),
        ([10**30], "give a list of whole numbers"),
        (iter([1]), "give a list of whole numbers"),
        (torch.ones(2, requires_grad=True), "give a list of whole numbers"),
        ([0, -1], "ids: -1 is no id; give numbers from 0 to 1114117, as encode returns"),
        (np.array([9_999_999], np.uint64), "ids: 9999999 is no id; give numbers from 0"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(model: Model, ids: Any, way: str) -> None:
    assert way in refusal_of(model.decode, ids)


def test_ids_of_other_libraries_are_ids(model: Model) -> None:
    for ids in ([2, 3], (2, 3), np.array([2, 3], np.uint8), torch.tensor([2, 3]), range(2, 4)):
        assert model.decode(ids) == "ab"  # type: ignore[arg-type]
    assert model.decode([]) == ""


def test_the_vocabulary_of_a_model_says_what_it_cannot_encode(model: Model) -> None:
    assert "read_text('utf-8')" in refusal_of(model.vocabulary.encode, Path("book.txt"))
    assert "is None" in refusal_of(model.vocabulary.unknown_characters, None)
    assert "give a list of strings" in refusal_of(model.pen, "abc")


def test_numbers_of_other_libraries_are_numbers(model: Model) -> None:
    numbers: dict[str, Any] = {"length": np.int64(4), "seed": np.uint8(1), "until_end": np.bool_(False)}
    assert len(model.sample(length=torch.tensor(4))) == 4  # type: ignore[call-overload]
    assert model.sample(**numbers) == model.sample(length=4, seed=1)
    assert "count 1.5: give a whole number" in refusal_of(model.samples, 1.5)
    assert "count -1: give 0 or more" in refusal_of(model.samples, -1)
    assert "piece 0: give 1 or more" in refusal_of(model.stream, piece=0)
    assert "give an iterable of texts" in refusal_of(model.surprisals, "abc")
    assert "give an iterable of texts" in refusal_of(model.surprisals, np.array("abc"))


@pytest.mark.parametrize(
    ("values", "way"),
    [
        ({"run": None}, "run is None"),
        ({"run": b"runs/book"}, "run is a path of bytes"),
        ({"run": 5}, "run is an int; give a path"),
        ({"run": ""}, "run is empty"),
        ({"run": ["a"]}, "run is a list; give a path"),
        ({"which": "bset"}, "'bset': give 'best', 'last' or the number of a step, or of an epoch as 'epoch:17'; did"),
        ({"which": "epoch:x"}, "or of an epoch as 'epoch:17'"),
        ({"which": None}, "which None: give"),
        ({"which": True}, "which True: give"),
        ({"which": 1.0}, "which 1.0: give"),
        ({"device": "gpu"}, "device 'gpu': give 'auto', 'cpu', 'cuda' or 'mps'"),
        ({"device": None}, "device None: give"),
        ({"precision": "fp16"}, "precision 'fp16': give 'auto', 'fp32', 'bf16' or 'int8'; did you mean 'bf16'?"),
    ],
)
def test_what_cannot_be_loaded_is_told(model: Model, values: dict[str, Any], way: str) -> None:
    assert way in refusal_of(scriven.load, **{"run": model.run} | values)


@pytest.mark.parametrize(
    ("texts", "values", "way"),
    [
        ([["a.txt", "b.txt"]], {"minutes": 1}, "scriven.train(*texts)"),
        ([b"a.txt"], {"minutes": 1}, "a text is a path of bytes"),
        ([None], {"minutes": 1}, "a text is None"),
        ([io.StringIO("abc")], {"minutes": 1}, "a text is a StringIO; give a path"),
        (["{book}"], {"minutes": "five"}, "minutes 'five': give a number"),
        (["{book}"], {"minutes": -1}, "minutes -1: give 0 or more"),
        (["{book}"], {"steps": 1.5}, "steps 1.5: give a whole number"),
        (["{book}"], {"minutes": 1, "steps": 1}, "give one budget, not 2: minutes, steps"),
        (["{book}"], {}, "please say how long to train: add minutes=5 (or epochs, steps, characters)"),
        ([], {"minutes": 1}, "no text to train on"),
        (["{book}"], {"steps": 1, "output": b"x"}, "output is a path of bytes"),
        (["{book}"], {"steps": 1, "output": ""}, "output is empty"),
        (["{book}"], {"steps": 1, "initial": 5}, "initial is an int; give a path"),
        (["{book}"], {"steps": 1, "resume": True}, "resume True: give 'last', 'auto' or the number of a step"),
        (["{book}"], {"steps": 1, "resume": "lats"}, "did you mean 'last'?"),
        (["{book}"], {"steps": 1, "settings": "mine.toml"}, "from a file with tomllib.load"),
        (
            ["{book}"],
            {"steps": 1, "settings": {"model": {"widht": 5}}},
            "there is no such setting; did you mean model.width?",
        ),
        (["{book}"], {"steps": 1, "settings": {"width": 5}}, "did you mean model.width?"),
        (["{book}"], {"steps": 1, "settings": {"modle": {"width": 5}}}, "did you mean model?"),
        (["{book}"], {"steps": 1, "recipe": "char_rnn"}, "give settings; did you mean char-rnn?"),
        (["{book}"], {"steps": 1, "recipe": ""}, "there is no recipe ''"),
        (["{book}"], {"steps": 1, "settings": {"model": {"cell": "lstn"}}}, "give 'lstm', 'gru'"),
        (["{book}"], {"steps": 1, "recipe": 5}, "recipe 5: give 'awd-lstm', "),
        (["{book}"], {"steps": True}, "steps True: give a number"),
        (["{book}"], {"steps": 1, "reports": 5}, "reports is int; give a list of reports"),
        (["{book}"], {"steps": 1, "reports": "abc"}, "reports is str; give a list of reports"),
        (["{book}"], {"steps": 1, "reports": [5]}, "reports contain 5: give objects that have handle(event)"),
        (
            ["{book}"],
            {"steps": 1, "resume": "last", "initial": "x"},
            "resume='last' continues a run",
        ),
        (["{book}"], {"steps": 1, "settings": {"reader": {"kind": "documents"}}}, "corpus.documents lines, files or"),
    ],
)
def test_what_cannot_be_trained_is_told(
    book: Path, tmp_path: Path, texts: list[Any], values: dict[str, Any], way: str
) -> None:
    texts = [book if text == "{book}" else text for text in texts]
    arguments: dict[str, Any] = {"output": tmp_path / "run", "reports": []} | values
    assert way in refusal_of(scriven.train, *texts, **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("give --minutes, --epochs or -o", "give minutes, epochs or output"),
        ("give more, such as --minutes 5", "give more, such as minutes=5"),
        ("lower --training.learning-rate 0.5.", "lower training.learning_rate 0.5."),
        ("take it with --from; a--b -one", "take it with initial; a--b -one"),
        ("go on with: scriven train --resume -o x", "go on with: scriven train --resume -o x"),
    ],
)
def test_sentences_name_parameters(sentence: str, said: str) -> None:
    assert in_python(sentence) == said


def test_a_run_may_be_named_by_its_path(model: Model) -> None:
    class Trained:
        path = Path("runs/book")

    assert "initial=run.path" in refusal_of(check_path, "initial", Trained())
    assert scriven.load(Path(model.run)).step == 1
