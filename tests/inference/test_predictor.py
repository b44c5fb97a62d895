"""Reading and writing ids with a tiny model of random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scriven import kernels
from scriven.arrays import Float64s, Ids
from scriven.errors import UsageError
from scriven.inference import predictor as generation
from scriven.inference.context import side_by_side
from scriven.inference.predictor import Predictor
from scriven.kernels import native_library
from scriven.kernels.packing import PRECISIONS
from scriven.model import CharLM
from scriven.sampling_settings import SamplingSettings
from scriven.settings import Cell, ModelSettings
from scriven.vocabulary import Vocabulary
from small_model import favour

LETTERS = "\n abcde"


def predictor(cell: Cell = "lstm", letters: str = LETTERS) -> Predictor:
    torch.manual_seed(1)
    vocabulary = Vocabulary.of(letters)
    return Predictor(CharLM(ModelSettings(cell=cell, width=8), vocabulary.size).eval(), vocabulary, "fp32")


def generate(
    model: Predictor, seeds: list[int], length: int = 60, settings: SamplingSettings | None = None
) -> list[list[int]]:
    context = model.start().rows([0] * len(seeds))
    ids, _ = model.generate(context, settings or SamplingSettings(), uniforms(seeds, length))
    return ids.T.tolist()  # type: ignore[no-any-return]


def uniforms(seeds: list[int], length: int) -> Float64s:
    return np.stack([np.random.default_rng(seed).random(length) for seed in seeds], 1)


def slow_written(model: Predictor, seed: int, length: int) -> list[int]:
    """Reads everything again, from the newline on, for each character that it draws."""
    random, text = np.random.default_rng(seed), list(model.opening)
    for _ in range(length):
        with torch.no_grad():
            logits, _ = model.model(torch.tensor(text)[:, None])
        weights = torch.softmax(logits[-1, 0, :-1].double() / 0.8, 0)
        text.append(int((weights.cumsum(0) <= random.random()).sum()))
    return text[1:]


def text_ids(length: int) -> Ids:
    return np.random.default_rng(3).integers(0, len(LETTERS) + 1, (length, 2))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_text_is_as_if_everything_were_read_again_each_time(cell: Cell) -> None:
    model = predictor(cell)
    assert generate(model, [5], 30) == [slow_written(model, 5, 30)]


def test_the_same_seed_gives_the_same_text_alone_or_in_a_batch() -> None:
    model = predictor()
    alone = [generate(model, [seed])[0] for seed in range(6)]
    assert generate(model, [0, 1, 2, 3, 4, 5]) == alone
    assert generate(model, [4, 2]) == [alone[4], alone[2]]
    assert len(set(map(tuple, alone))) == 6


def test_unknown_is_never_written() -> None:
    model = predictor()
    favour(model, model.vocabulary.unknown, 50)
    drawn = generate(model, list(range(8)), 40)
    assert model.vocabulary.unknown not in np.array(drawn)
    assert model.vocabulary.unknown not in np.array(generate(model, [1], 40, SamplingSettings(temperature=0)))


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 1000])
def test_read_in_chunks_of_any_length_gives_the_same_context(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = predictor(), text_ids(23)
    whole = model.read(model.blank(2), ids)
    monkeypatch.setattr(generation, "READ_AT_ONCE", at_once * 2)
    chunked = model.read(model.blank(2), ids)
    assert whole.state is not None and chunked.state is not None
    torch.testing.assert_close(chunked.logits, whole.logits)
    torch.testing.assert_close(chunked.state, whole.state)


def test_a_context_can_be_continued_many_times() -> None:
    model = predictor()
    context = model.read(model.start(), text_ids(9)[:, :1])
    before = context.logits.copy()
    first, _ = model.generate(context, SamplingSettings(), uniforms([1], 20))
    again, _ = model.generate(context, SamplingSettings(), uniforms([1], 20))
    assert first.tolist() == again.tolist()
    assert np.array_equal(context.logits, before)


def test_reading_nothing_changes_nothing() -> None:
    model = predictor()
    context = model.start()
    assert model.read(context, np.empty((0, 1), np.int64)) is context


def test_without_a_newline_the_first_character_is_uniform() -> None:
    model = predictor(letters="abc")
    assert model.start().state is None
    first = [generate(model, [seed], 1)[0][0] for seed in range(300)]
    # Each of three letters 100 times expected; outside 60..140 lie 5 standard deviations.
    assert all(60 < count < 140 for count in np.bincount(first, minlength=3))


def test_unseen_symbols_are_read_as_unknown() -> None:
    model = predictor()
    unseen = model.read(model.start(), model.vocabulary.encode("a€")[:, None])
    unknown = model.read(model.start(), np.array([[model.vocabulary.encode("a")[0]], [model.vocabulary.unknown]]))
    assert np.array_equal(unseen.logits, unknown.logits)


def test_contexts_go_side_by_side() -> None:
    model = predictor()
    contexts = [model.read(model.start(), text_ids(length)[:, :1]) for length in (3, 9)]
    both = side_by_side([contexts[0].rows([0, 0]), contexts[1]])
    numbers = uniforms([1, 2, 3], 20)
    ids, _ = model.generate(both, SamplingSettings(), numbers)
    for row, context in enumerate((contexts[0], contexts[0], contexts[1])):
        alone, _ = model.generate(context, SamplingSettings(), numbers[:, row : row + 1])
        assert ids[:, row].tolist() == alone[:, 0].tolist()
    with pytest.raises(ValueError, match="share a batch"):
        side_by_side([model.blank(), contexts[0]])


# --- documents


def documents_predictor() -> Predictor:
    torch.manual_seed(1)
    vocabulary = Vocabulary.of(LETTERS, "\n")
    return Predictor(CharLM(ModelSettings(width=8), vocabulary.size).eval(), vocabulary, "fp32")


def test_a_document_begins_with_the_boundary() -> None:
    model = documents_predictor()
    assert model.opening.tolist() == [model.vocabulary.boundary]
    with torch.no_grad():
        logits, _ = model.model(torch.tensor([[model.vocabulary.boundary]]))
    torch.testing.assert_close(torch.from_numpy(model.start().logits), logits[0])


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_reading_a_boundary_forgets_what_its_row_has_read(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "READ_AT_ONCE", at_once * 3)
    model = documents_predictor()
    text, boundary = text_ids(9), model.opening[0]
    ids = np.concatenate((text, text[:, :1]), axis=1)  # (9, 3)
    ids[4, 0] = ids[0, 1] = ids[8, 1] = boundary
    context = model.read(model.read(model.blank(3), text_ids(5)[:, [0, 1, 0]]), ids)
    for row, begin in enumerate((4, 8)):
        alone = model.read(model.blank(), ids[begin:, row : row + 1])
        torch.testing.assert_close(context.rows([row]).logits, alone.logits)
    whole = model.read(model.read(model.blank(), text_ids(5)[:, :1]), ids[:, 2:])
    torch.testing.assert_close(context.rows([2]).logits, whole.logits)


def test_a_row_that_draws_the_boundary_begins_another_document() -> None:
    model = documents_predictor()
    boundary = model.vocabulary.boundary
    favour(model, boundary, 1.5)
    ids = generate(model, [1, 2], 60)
    for seed, row in zip((1, 2), ids, strict=True):
        ends = [place for place, id in enumerate(row) if id == boundary]
        assert ends
        rest, _ = model.generate(model.start(), SamplingSettings(), uniforms([seed], 60)[ends[0] + 1 :])
        assert rest[:, 0].tolist() == row[ends[0] + 1 :]


def test_through_a_window_a_model_sees_the_last_characters_and_nothing_else() -> None:
    plain = predictor()
    seen = Predictor(plain.model, plain.vocabulary, "fp32", window=3)
    ids = np.arange(8)[:, None] % 4
    whole = seen.read(seen.start(), ids)
    in_pieces = seen.read(seen.read(seen.read(seen.start(), ids[:2]), ids[2:7]), ids[7:])
    alone = plain.read(plain.blank(), ids[-3:])
    for context in (whole, in_pieces, whole.rows([0, 0]).rows([1])):
        torch.testing.assert_close(context.logits, alone.logits)
        assert context.recent is not None and context.recent[:, 0].tolist() == ids[-3:, 0].tolist()
    assert not np.allclose(whole.logits, plain.read(plain.start(), ids).logits)


# --- native writing

with_kernels = pytest.mark.skipif(native_library.level() == "off", reason=native_library.why())


def native(precision: str, cell: Cell = "lstm") -> Predictor:
    plain = predictor(cell)
    return Predictor(plain.model, plain.vocabulary, "fp32", writing=precision)


@with_kernels
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru"])
def test_native_code_writes_the_same_text(cell: Cell) -> None:
    assert generate(native("fp32", cell), [5, 6, 7], 100) == generate(predictor(cell), [5, 6, 7], 100)


@with_kernels
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("length", [0, 1, 77])
def test_after_native_writing_the_context_is_that_of_reading(precision: str, length: int) -> None:
    model = native(precision)
    context, numbers = model.start(), uniforms([3], length + 40)
    ids, after = model.generate(context, SamplingSettings(), numbers[:length])
    going_on, _ = model.generate(after, SamplingSettings(), numbers[length:])
    assert [*ids[:, 0].tolist(), *going_on[:, 0].tolist()] == generate(model, [3], length + 40)[0]
    read = model.read(context, ids)
    torch.testing.assert_close(
        after.logits, read.logits, rtol=0, atol={"fp32": 1e-5, "bf16": 1e-2, "int8": 3e-2}[precision]
    )


@with_kernels
def test_native_code_has_changed_weights_once_they_are_packed_again() -> None:
    model = native("int8")
    before = generate(model, [1])
    favour(model, 3, 50)
    assert generate(model, [1]) == before != [[3] * 60]
    model.repack()
    assert generate(model, [1]) == [[3] * 60]


def test_torch_has_changed_weights_at_once() -> None:
    model = predictor()
    model.repack()  # which does nothing
    favour(model, 3, 50)
    assert generate(model, [1]) == [[3] * 60]


@pytest.mark.parametrize("precision", [None, *PRECISIONS])
def test_a_predictor_asks_before_every_chunk_whether_to_stop(
    precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision and native_library.level() == "off":
        pytest.skip(native_library.why())
    asked: list[int] = []

    def check_stop() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    plain = predictor()
    model = Predictor(plain.model, plain.vocabulary, "fp32", writing=precision, check_stop=check_stop)
    monkeypatch.setattr(generation, "READ_AT_ONCE", 2)
    with pytest.raises(KeyboardInterrupt):
        model.read(model.blank(), text_ids(9)[:, :1])
    assert len(asked) == 3


def test_torch_writes_where_nothing_else_is_said() -> None:
    assert predictor().sampler() is None


@with_kernels
def test_native_code_writes_in_int8_where_nothing_else_is_asked_for() -> None:
    assert [generation.writing_precision(asked, "cpu") for asked in ("auto", *PRECISIONS)] == ["int8", *PRECISIONS]
    assert generation.writing_precision("auto", "meta") is None
    with pytest.raises(UsageError, match="int8 is for native code on the CPU, and the device is meta"):
        generation.writing_precision("int8", "meta")


@with_kernels
@pytest.mark.parametrize("cell", ["lstm", "mingru"])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_through_a_window_native_code_writes_as_torch_does(cell: Cell, length: int) -> None:
    """Also what it leaves to go on from: the state carried through all, and what the window shows."""
    plain = predictor(cell)
    slow, fast = (Predictor(plain.model, plain.vocabulary, "fp32", 5, writing) for writing in (None, "fp32"))
    context, numbers = slow.read(slow.start().rows([0, 0]), text_ids(2)), uniforms([1, 2], length)
    ids, expected = slow.generate(context, SamplingSettings(), numbers)
    found, after = fast.generate(context, SamplingSettings(), numbers)
    assert found.tolist() == ids.tolist()
    assert after.recent is not None and expected.recent is not None
    assert after.recent.tolist() == expected.recent.tolist()
    torch.testing.assert_close((after.logits, after.state), (expected.logits, expected.state))


@with_kernels
def test_through_a_window_unseen_symbols_are_seen_as_unknown() -> None:
    """Native code once read beyond its arrays for them."""
    plain = predictor()
    slow, fast = (Predictor(plain.model, plain.vocabulary, "fp32", 5, writing) for writing in (None, "fp32"))
    unseen, numbers = plain.vocabulary.encode("a\U0010ffffb")[:, None], uniforms([1], 9)
    assert plain.vocabulary.unseen(unseen).any()
    found, _ = fast.generate(fast.read(fast.start(), unseen), SamplingSettings(), numbers)
    assert found.tolist() == slow.generate(slow.read(slow.start(), unseen), SamplingSettings(), numbers)[0].tolist()


def test_without_native_code_torch_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "level", lambda: "off")
    assert generation.writing_precision("auto", "cpu") is None
    with pytest.raises(UsageError, match="there is none here"):
        generation.writing_precision("int8", "cpu")
