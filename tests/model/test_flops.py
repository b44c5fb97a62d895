"""The operations of training that are shown, against a count of every multiplication and addition in slow loops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from conftest import Command
from fake_run import make_started
from scriven.events import Started
from scriven.model import precision
from scriven.model.shapes import training_flops
from scriven.report.words import speed_words
from scriven.settings import ModelSettings

SYMBOLS = 5
GATES = {"rnn": 1, "gru": 3, "lstm": 4, "mingru": 2}


class Count:
    """Multiplies plain lists as a program of numbers would, and counts its operations."""

    def __init__(self) -> None:
        self.operations = 0

    def multiply(self, rows: int, columns: int) -> None:
        """A matrix and a vector: each row's products are added to a sum that begins with what there is (a bias)."""
        for _ in range(rows):
            for _ in range(columns):
                self.operations += 2

    def backwards(self, rows: int, columns: int, *, both: bool) -> None:
        """The gradient of the matrix is an outer product, added up; that of the vector a product from the left."""
        for _ in range(rows):
            for _ in range(columns):
                self.operations += 2
        for _ in range(columns if both else 0):
            for _ in range(rows):
                self.operations += 2


def count_slowly(settings: ModelSettings, predictions: int, symbols: int) -> int:
    """Counts the operations of training on so many symbols, with a prediction for some of them."""
    count = Count()
    for _ in range(settings.members):
        for number in range(symbols):
            inputs = settings.embedding or settings.width
            for layer in range(settings.layers):
                last = layer == settings.layers - 1 and settings.head == "none"
                width = SYMBOLS if last else settings.width
                for _ in range(GATES[settings.cell]):
                    if layer or settings.input != "onehot":
                        count.multiply(width, int(inputs))
                        count.backwards(width, int(inputs), both=bool(layer) or not settings.freeze_embedding)
                    if settings.cell != "mingru":
                        count.multiply(width, width)
                        count.backwards(width, width, both=True)
                inputs = width
            if settings.head != "none" and number < predictions:
                count.multiply(SYMBOLS, int(inputs))
                count.backwards(SYMBOLS, int(inputs), both=True)
    return count.operations


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"embedding": 3},
        {"layers": 3, "norm": "rms", "residual": True},
        {"input": "onehot"},
        {"freeze_embedding": True},
        {"tied": True},
        {"head": "none"},
        {"members": 3},
    ],
    ids=str,
)
def test_operations_are_those_of_every_product(cell: str, more: dict[str, object]) -> None:
    settings = ModelSettings.model_validate({"cell": cell, "width": 4, "layers": 2, **more})
    assert training_flops(settings, SYMBOLS) == count_slowly(settings, predictions=1, symbols=1)
    assert 7 * training_flops(settings, SYMBOLS, 1 / 7) == pytest.approx(count_slowly(settings, 1, symbols=7))


def test_counts_alone_have_no_products() -> None:
    assert training_flops(ModelSettings(kind="counts"), SYMBOLS) == 0


def test_the_peak_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIVEN_CACHE", str(tmp_path))
    monkeypatch.setattr(precision, "PRODUCT_WIDTHS", {"cpu": 64})
    precision.peak_flops.cache_clear()
    peak = precision.peak_flops("cpu", "fp32")
    assert 0 < peak < math.inf
    (rows,) = json.loads((tmp_path / "machine.json").read_text("utf-8")).values()
    assert peak == pytest.approx(2 * 64**3 / rows[0]["fp32"]) and rows[0]["bf16"] == 0
    precision.peak_flops.cache_clear()
    failed = precision.Measurement(0.0, 0.0, 0.0)
    with monkeypatch.context() as patch:  # one that failed, as memory was short, counts for nothing
        patch.setattr(precision, "_remember", lambda *_: (failed, precision.Measurement(0.0, 1.0, 0.0)))
        assert precision.peak_flops("cpu", "fp32") == 2 * precision.PRODUCT_WIDTHS["cpu"] ** 3
        precision.peak_flops.cache_clear()
        patch.setattr(precision, "_remember", lambda *_: (failed,))
        assert precision.peak_flops("cpu", "fp32") == 0
    precision.peak_flops.cache_clear()
    monkeypatch.setattr(precision, "_measure_product", lambda *_: pytest.fail("it was measured again"))
    assert precision.peak_flops("cpu", "fp32") == peak
    precision.peak_flops.cache_clear()


def test_a_person_is_shown_the_share_of_the_peak() -> None:
    started = Started(**vars(make_started()) | {"flops_per_character": 2e6, "peak_flops": 1e12})
    assert speed_words(123_456.0, started) == "123,456 characters/s, 246.9 GFLOP/s (25 % of peak)"
    assert speed_words(1e6, started) == "1,000,000 characters/s, 2.0 TFLOP/s"
    assert speed_words(123_456.0, make_started()) == speed_words(123_456.0, None) == "123,456 characters/s"


def test_a_training_logs_its_operations(
    command: Command, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--model.width=8", "--model.layers=1", "--reader.batch=2", "--reader.length=8", "--training.workers=1"]
    done = command("train", "book.txt", "--steps", "3", *small, "--json")
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    started = events[0]
    settings = ModelSettings(width=8, layers=1, cell=started["name"].split()[0])
    symbols = len({*book.read_text("utf-8")}) + 1
    assert started["flops_per_character"] == training_flops(settings, symbols)
    steps = [event for event in events if event["event"] == "stepped"]
    for event in steps:
        assert event["flops_per_second"] > 0
        assert event["peak_share"] == pytest.approx(event["flops_per_second"] / started["peak_flops"])
    logged = [json.loads(line) for line in (tmp_path / "runs/book/metrics.jsonl").read_text("utf-8").splitlines()]
    assert [each["peak_share"] for each in logged if each["event"] == "stepped"] == [
        each["peak_share"] for each in steps
    ]
