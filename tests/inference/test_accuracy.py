"""How many characters were the likeliest ones by the model: exact counts, whoever reads which part."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Command
from scriven.events import Evaluated
from scriven.inference import protocols
from scriven.inference.predictor import Predictor
from scriven.kernels import native_library
from scriven.loss import Loss
from scriven.model.precision import bf16_speedup
from scriven.report import as_dict
from scriven.report.words import means
from scriven.runs import open_run
from scriven.settings_values import validate
from scriven.training.request import Request
from scriven.training.start import train
from small_model import DOCUMENTS, TEXT, Shelf, favour, predictor

WAYS = [None, pytest.param("int8", marks=pytest.mark.skipif(native_library.level() == "off", reason="torch alone"))]


def slow_right(model: Predictor, ids: Sequence[int], opening: Sequence[int]) -> list[bool]:
    """Whether every id but the opening's is the likeliest, one step at a time, with nothing read before."""
    if model.scorer():
        return slow_right_natively(model, [*opening, *ids])[len(opening) :]
    state, right, foretold = None, [], 0
    for place, symbol in enumerate([*opening, *ids]):
        if place >= len(opening):
            right.append(foretold == symbol)
        with torch.no_grad():
            logits, state = model.model(torch.tensor([[min(symbol, model.vocabulary.unknown)]]), state)
        foretold = int(logits[0, 0].argmax())
    return right


def slow_right_natively(model: Predictor, ids: Sequence[int]) -> list[bool]:
    """The same, from the whole distributions that native code gives in int8."""
    context, right = model.blank(), []
    for symbol in ids:
        right.append(int(context.logits[0].argmax()) == symbol)
        context = model.carry(context, np.array([[symbol]]))
    return right


def use_precision(model: Predictor, way: str | None) -> Predictor:
    return Predictor(model.model, model.vocabulary, "fp32", writing=way)


def slow_accuracy(model: Predictor, name: str, ids: list[int]) -> list[bool]:
    opening = model.opening.tolist()
    if name == "stream":
        return slow_right(model, ids, opening)
    if name == "window-5":
        return [
            each
            for start in range(0, len(ids) - 1, 5)
            for each in slow_right(model, ids[start + 1 : start + 6], ids[start : start + 1])
        ]
    after = [slow_right(model, ids[place - 7 : place + 1], [])[-1] for place in range(7, len(ids))]
    return slow_right(model, ids[:7], opening) + after


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["stream", "window-5", "last-7"])
def test_what_is_right_is_counted_once_whoever_reads_it(name: str, way: str | None) -> None:
    model = use_precision(predictor(), way)
    ids = model.vocabulary.encode(TEXT[:200])
    right = slow_accuracy(model, name, ids.tolist())
    for size in (1, 3):
        parts = [
            protocols.measure(name, model, Shelf(ids), rank=rank, size=size, lanes_at_most=1) for rank in range(size)
        ]
        loss = sum((part.loss for part in parts), Loss(0.0, 0))
        assert (loss.right, loss.judged) == (sum(right), len(right))
        assert loss.accuracy == sum(right) / len(right)


@pytest.mark.parametrize("way", WAYS)
def test_ends_of_documents_are_not_characters_that_are_right(way: str | None) -> None:
    model = use_precision(predictor(separator="\n"), way)
    boundary = model.vocabulary.boundary
    assert boundary is not None
    right = 0
    text: list[int] = []
    for document in DOCUMENTS:
        ids = model.vocabulary.encode(document).tolist()
        right += sum(slow_right(model, ids, [boundary]))
        text += [*ids, boundary]
    loss = protocols.documents(model, [np.array(text)]).loss
    assert (loss.right, loss.judged) == (right, sum(map(len, DOCUMENTS)))


@pytest.mark.parametrize("way", WAYS)
def test_a_character_that_the_model_does_not_know_is_never_right(way: str | None) -> None:
    model = predictor()
    favour(model, model.vocabulary.unknown, 100.0)
    ids = model.vocabulary.encode("ab?!€c")
    assert model.vocabulary.unseen(ids).sum() == 3
    loss = protocols.stream(use_precision(model, way), [ids]).loss
    assert (loss.right, loss.judged) == (0, 6)


def test_means_tell_what_is_right_where_it_was_counted() -> None:
    loss = Loss(10.0, 10, 10, right=5, judged=10)
    assert means(loss) == "1.4427 bits/char, 50.0 % right"
    assert "right" not in means(Loss(10.0, 10))
    told: dict[str, Any] = as_dict(Evaluated(1, 0.5, "stream", loss, True, 1.0))
    assert told["accuracy"] == 0.5
    assert told["loss"] == {"nats": 10.0, "characters": 10, "bytes": 10, "right": 5, "judged": 10}
    assert "accuracy" not in as_dict(Evaluated(1, 0.5, "stream", Loss(10.0, 10), True, 1.0))


def test_evaluations_count_what_is_right_and_keep_it(book: Path, tmp_path: Path, command: Command) -> None:
    settings = {"model": {"width": 16, "layers": 1}, "budget": {"steps": 20}, "monitor": {"sample_length": 1}}
    grouped = {"training": {"workers": 1, "groups": 2, "precision": "fp32"}}
    events = list(train(Request((str(book),), validate(settings | grouped), tmp_path / "run")))
    losses = [event.loss for event in events if isinstance(event, Evaluated)]
    assert all(0 < loss.right < loss.judged == loss.characters for loss in losses)
    run = open_run(tmp_path / "run")
    assert run.checkpoint("last").manifest["validation"]["judged"] == losses[0].characters
    assert "% right" in command("info", str(run.path)).out
    final = next(event.loss for event in events if isinstance(event, Evaluated) and event.final)
    told = json.loads(command("evaluate", str(run.path), "--json", "--precision", "fp32").out)
    assert told["accuracy"] == final.accuracy
    assert told["precision"] == "fp32"
    works = {"bf16": bf16_speedup() > 0, "int8": native_library.level() != "off"}  # on this processor
    for precision in (name for name, yes in works.items() if yes):
        told = json.loads(command("evaluate", str(run.path), "--json", "--precision", precision).out)
        assert told["precision"] == precision
        assert 0 < told["accuracy"] < 1
        shown = command("evaluate", str(run.path), "--precision", precision).out
        assert re.search(rf"accuracy\W+{told['accuracy']:.4f}", shown)
