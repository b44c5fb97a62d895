"""Writing in blocks of any lengths, alone and side by side, against one symbol at a time."""

from __future__ import annotations

import time
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from scriven.errors import InputError
from scriven.inference import generation
from scriven.inference.generation import BlockLength, Generation, GenerationBatch, Memory, generate, generate_many
from scriven.inference.predictor import Predictor
from scriven.inference.sampling import draw
from scriven.inference.stream_decoder import StreamDecoder
from scriven.kernels import native_library
from scriven.model import CharLM
from scriven.model.cells import RecurrentLayer
from scriven.sampling_settings import SamplingSettings
from scriven.settings import ModelSettings
from scriven.vocabulary import Vocabulary
from small_model import favour, predictor

HOT = SamplingSettings(temperature=1.5)
WAYS = [None, *(["fp32", "int8"] if native_library.level() != "off" else [])]  # torch and native code


def model_of(way: str | None) -> Predictor:
    plain = predictor("\n abcde", "\n")
    favour(plain, plain.vocabulary.boundary, -1)
    return Predictor(plain.model, plain.vocabulary, "fp32", writing=way)


def line(
    model: Predictor, seed: int, length: int, *, settings: SamplingSettings = HOT, ending: bool = True
) -> Generation:
    pen = StreamDecoder(model.vocabulary, ["ab", "d"] if ending else [], until_end=ending)
    return Generation(np.random.default_rng(seed), settings, length, pen)


def alone(model: Predictor, asked: Generation, most: int) -> str:
    return "".join(generate(model, Memory(model.start()), asked, most))


def slow(model: Predictor, asked: Generation) -> str:
    """A symbol at a time."""
    context, text = model.start(), ""
    while asked.left and not asked.done:
        ids, context = model.generate(context, asked.settings, asked.random.random((1, 1)))
        text += asked.take(ids[0])[0]
    return text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("most", [1, 3, 32, 512])
@pytest.mark.parametrize("ending", [True, False])
def test_a_text_does_not_depend_on_the_lengths_of_blocks(way: str | None, most: int, *, ending: bool) -> None:
    model = model_of(way)
    for seed in range(5):
        one, other = (line(model, seed, 90, ending=ending) for _ in range(2))
        assert alone(model, one, most) == slow(model, other)
        assert one.random.bit_generator.state == other.random.bit_generator.state
        assert (one.left, one.pen.ended) == (other.left, other.pen.ended)


@pytest.mark.parametrize("way", WAYS[:2])  # not int8, in which a state's values are bounded
def test_a_model_that_overflows_late_in_a_text_says_so(way: str | None) -> None:
    """Its state grows threefold at every symbol; what it foretells at first is finite."""
    model = CharLM(ModelSettings(width=8, layers=1, cell="rnn", activation="relu"), 8).eval()
    for layer in model.layers:
        assert isinstance(layer, RecurrentLayer)
        torch.nn.init.constant_(layer.rnn.bias_ih_l0, 1.0)
        torch.nn.init.constant_(layer.rnn.weight_hh_l0, 3 / 8)
    grows = Predictor(model, Vocabulary.of("\n abcde"), "fp32", writing=way)
    pieces = generate(grows, Memory(grows.start()), line(grows, 1, 400, ending=False), 16)
    assert next(pieces)
    with pytest.raises(InputError, match="the model overflows"):
        list(pieces)
    lines = [line(grows, seed, 400, ending=False) for seed in range(3)]
    with pytest.raises(InputError, match="the model overflows"):
        list(generate_many(grows, [(each, grows.start()) for each in lines], False))


@pytest.mark.parametrize("way", WAYS)
def test_the_context_is_that_of_all_that_was_drawn(way: str | None) -> None:
    model = model_of(way)
    for seed in range(5):
        memory, asked = Memory(model.start()), line(model, seed, 90)
        list(generate(model, memory, asked, 64))
        numbers = np.random.default_rng(seed).random((90 - asked.left, 1))
        _, expected = model.generate(model.start(), HOT, numbers)
        assert np.array_equal(memory.context.logits, expected.logits)


@pytest.mark.parametrize("way", WAYS)
def test_texts_side_by_side_are_those_written_alone(way: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "ROWS", 5)
    model = model_of(way)
    lengths = [0, 1, 40, 7, 90, 30, 2, 60, 0, 11, 90, 3]
    lines = [line(model, seed, length) for seed, length in enumerate(lengths)]
    found = list(generate_many(model, [(each, model.start()) for each in lines], ending=True))
    assert [each for each, _ in found] == lines
    assert [text for _, text in found] == [alone(model, line(model, n, length), 8) for n, length in enumerate(lengths)]
    assert list(generate_many(model, [], ending=False)) == []


def test_an_interrupted_block_never_began(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(None)
    asked = line(model, 1, 30, ending=False)
    whole, memory = alone(model, line(model, 1, 30, ending=False), 5), Memory(model.start())
    pieces = generate(model, memory, asked, 5)
    text = next(pieces)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(model, "read", Mock(side_effect=KeyboardInterrupt))
        next(pieces)
    assert text + "".join(generate(model, memory, asked, 5)) == whole


def test_lines_of_a_batch_have_settings_of_their_own_and_join_at_any_time() -> None:
    model = model_of(None)
    settings = [SamplingSettings(temperature=0), SamplingSettings(temperature=2, top_k=3), HOT]
    texts: dict[int, str] = {}
    batch, numbers = GenerationBatch(model), {}
    assert batch.generate(5) == []
    for n, each in enumerate(settings):
        batch.add([made := line(model, n, 20, settings=each, ending=False)], model.start())
        numbers[made] = n
        for written, text, *_ in batch.generate(7):
            texts[numbers[written]] = texts.get(numbers[written], "") + text
    while batch.generations:
        for written, text, *_ in batch.generate(7):
            texts[numbers[written]] += text
    for n, each in enumerate(settings):
        assert texts[n] == alone(model, line(model, n, 20, settings=each, ending=False), 4)


def test_rows_are_drawn_by_their_own_settings() -> None:
    logits = np.random.default_rng(1).normal(size=(3, 9))
    settings, numbers = [SamplingSettings(temperature=0), HOT, SamplingSettings(top_k=2)], np.array([0.3, 0.9, 0.7])
    each = [draw(logits[n : n + 1], settings[n], numbers[n : n + 1])[0] for n in range(3)]
    assert draw(logits, settings, numbers).tolist() == each


def test_blocks_grow_where_they_are_fast_and_shrink_where_they_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, lengths = BlockLength(32), []
    for seconds in [0.001] * 4 + [0.1] * 7:
        with pace as length:
            lengths.append(length)
            now[0] += seconds
    assert lengths == [8, 16, 32, 32, 32, 16, 8, 4, 2, 1, 1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("letters", "window"), [("\n abcde", 10), (" abcde", 0), (" abcde", 10)])
def test_lines_join_only_those_that_they_fit(
    way: str | None, letters: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, the sixth text began beside some that had seen more of the window, or had a state where it had none."""
    monkeypatch.setattr(generation, "ROWS", 5)
    plain = predictor(letters)
    model = Predictor(plain.model, plain.vocabulary, "fp32", window, way)

    def lines() -> list[Generation]:
        settings = SamplingSettings(temperature=3.0)
        return [
            Generation(np.random.default_rng(n), settings, 60, StreamDecoder(model.vocabulary, ["ab"]))
            for n in range(12)
        ]

    found = [text for _, text in generate_many(model, [(each, model.start()) for each in lines()], ending=True)]
    assert len({len(text) for text in found}) > 1  # they do end at different places
    assert found == [alone(model, each, 8) for each in lines()]
