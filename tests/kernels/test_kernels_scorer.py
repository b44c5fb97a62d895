"""The native scorer against torch, for every cell, level and precision, and against itself in other pieces and rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_variants import VARIANTS, at_each_variant, kernels_of
from torch.nn import functional

from scriven.arrays import Bools, Float32s, Float64s, Ids, State, as_numpy
from scriven.kernels import native_library, sampler
from scriven.kernels.packing import PRECISIONS
from scriven.kernels.sampler import Sampler
from scriven.model import CharLM, language_model
from scriven.settings import ModelSettings

pytestmark = pytest.mark.skipif(native_library.level() == "off", reason=native_library.why())
BOUNDARY = 21
Reading = tuple[Float64s, Float32s, State]

SETTINGS = [
    ModelSettings(width=40),
    ModelSettings(width=1, layers=1),
    ModelSettings(width=257, cell="gru", layers=1),
    ModelSettings(width=40, cell="rnn", layers=3),
    ModelSettings(width=17, layers=3, residual=True, norm="rms", embedding=5),
    ModelSettings(width=33, cell="gru", activation="relu,tanh", norm="layer"),
    ModelSettings(width=80, cell="rnn", input="onehot"),
    ModelSettings(width=24, cell="gru", head="none"),
    ModelSettings(width=40, members=2),
    ModelSettings(width=17, layers=3, members=3, residual=True, norm="layer", embedding=5),
    ModelSettings(width=24, cell="rnn", layers=1, head="none", input="onehot", members=2),
]


def make_model(settings: ModelSettings, symbols: int = 23) -> CharLM:
    torch.manual_seed(1)
    return language_model.make_model(settings, symbols).eval()


def zeros(rows: int, symbols: int = 23) -> Float32s:
    return np.zeros((rows, symbols), np.float32)


def pack(model: CharLM, precision: str) -> Sampler:
    return Sampler(model.settings, model.state_dict(), precision, BOUNDARY)


def text(steps: int, rows: int, symbols: int = 23) -> Ids:
    return np.random.default_rng(1).integers(0, symbols, (steps, rows))


def read(model: Sampler, ids: Ids, threads: int = 1, before: Reading | None = None) -> Reading:
    rows = ids.shape[1]
    _, logits, state = before or (None, zeros(rows, model.symbols), model.zero_state(rows))
    nats, _, logits, state = sampler.score(model, logits, state, ids, ids, threads)
    return nats, logits, state


@torch.no_grad()
def slow(model: CharLM, ids: Ids) -> Reading:
    """By torch, one step after another."""
    logits, state, nats = torch.zeros(ids.shape[1], model.vocabulary_size), None, []
    for row in torch.from_numpy(ids):
        nats.append(functional.cross_entropy(logits.double(), row, reduction="none"))
        after, state = model(row[None], state, (row == BOUNDARY)[None])
        logits = after[0]
    assert state is not None
    return torch.stack(nats).numpy(), logits.numpy(), tuple(tuple(map(as_numpy, layer)) for layer in state)


def assert_same_bits(left: Reading, right: Reading) -> None:
    assert left[0].tolist() == right[0].tolist()
    assert np.array_equal(left[1], right[1])
    assert all(np.array_equal(a, b) for x, y in zip(left[2], right[2], strict=True) for a, b in zip(x, y, strict=True))


@at_each_variant
@pytest.mark.parametrize("rows", [1, 3, 33])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_costs_are_torchs(settings: ModelSettings, rows: int, variant: str) -> None:
    model, ids = make_model(settings), text(70 if rows == 1 else 4, rows)
    nats, logits, state = read(pack(model, "fp32"), ids, threads=2)
    expected = slow(model, ids)
    np.testing.assert_allclose(nats, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((logits, state), expected[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_rounding_costs_little(cell: str, precision: str) -> None:
    """On average over a text; single characters may cost a little more or less."""
    model, ids = make_model(ModelSettings.model_validate({"cell": cell, "width": 64})), text(300, 4)
    nats, _, _ = read(pack(model, precision), ids)
    assert abs(nats.mean() - slow(model, ids)[0].mean()) < 1e-3


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_pieces_rows_and_threads_change_no_bit(settings: ModelSettings, precision: str) -> None:
    model, ids = pack(make_model(settings), precision), text(70, 37)
    whole = read(model, ids)
    assert_same_bits(whole, read(model, ids, threads=3))
    first = read(model, ids[:33])
    second = read(model, ids[33:], before=first)
    assert_same_bits(whole, (np.concatenate((first[0], second[0])), *second[1:]))
    for row in (0, 20, 36):
        alone, part = read(model, ids[:, row : row + 1], threads=2), slice(row, row + 1)
        beside = whole[0][:, part], whole[1][part], tuple(tuple(x[part] for x in layer) for layer in whole[2])
        assert_same_bits(alone, beside)


@pytest.mark.parametrize("settings", SETTINGS[:6], ids=str)
def test_all_variants_give_the_same_bits_in_int8(settings: ModelSettings) -> None:
    model, ids, readings = make_model(settings), text(20, 19), []
    for variant in VARIANTS:
        with kernels_of(variant):
            readings.append(read(pack(model, "int8"), ids))
    for reading in readings:
        assert_same_bits(readings[0], reading)


def find_likeliest(model: Sampler, ids: Ids) -> Ids:
    """The first of the likeliest symbols (T, N) before each of ids (T, N), read one after another."""
    logits, state, found = zeros(ids.shape[1], model.symbols), model.zero_state(ids.shape[1]), []
    for row in ids:
        found.append(logits.argmax(-1))
        _, _, logits, state = sampler.score(model, logits, state, row[None], row[None])
    return np.array(found)


def score_right(model: Sampler, ids: Ids, targets: Ids, threads: int = 1) -> Bools:
    rows = ids.shape[1]
    state = model.zero_state(rows)
    _, found, _, _ = sampler.score(model, zeros(rows, model.symbols), state, ids, targets, threads)
    return found


@at_each_variant
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [1, 37])
def test_the_likeliest_symbols_are_right_and_no_others(rows: int, precision: str, variant: str) -> None:
    for settings, symbols in ((SETTINGS[0], 23), (SETTINGS[7], 24), (ModelSettings(width=8), 300)):
        model, ids = pack(make_model(settings, symbols), precision), text(70, rows, symbols)
        expected = find_likeliest(model, ids)
        assert score_right(model, ids, expected, threads=2).all()
        for targets in (ids, (expected + 1) % symbols, np.where(ids % 2, expected, ids)):
            assert score_right(model, ids, targets).tolist() == (expected == targets).tolist()


@at_each_variant
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("first", [0, 3, 16, 70])
def test_of_equally_likely_symbols_the_first_is_right_as_torchs_is(first: int, precision: str, variant: str) -> None:
    model = make_model(ModelSettings(width=8, layers=1), 90)
    with torch.no_grad():
        model.get_parameter("head.weight").zero_()
        model.get_parameter("head.bias")[:] = -1.0
        model.get_parameter("head.bias")[[first, 71, 88]] = 0.5
    assert model.get_parameter("head.bias").argmax() == first
    targets = np.arange(90)[:, None]
    found = score_right(pack(model, precision), np.zeros_like(targets), targets)[:, 0]
    assert found[0], "before anything was read all are equally likely"
    assert np.flatnonzero(found[1:]).tolist() == [first - 1] * (first > 0)


def test_more_symbols_than_fit_beside_one_another() -> None:
    model = make_model(ModelSettings(width=16), 9000)
    ids = text(9, 2, 9000)
    nats, _, _ = read(pack(model, "fp32"), ids, threads=2)
    np.testing.assert_allclose(nats, slow(model, ids)[0], rtol=1e-4, atol=1e-5)


def test_what_is_read_may_be_other_than_what_is_foretold() -> None:
    model, ids = pack(make_model(SETTINGS[0]), "int8"), text(5, 2)
    logits, state = zeros(2), model.zero_state(2)
    nats, _, after, _ = sampler.score(model, logits, state, ids, np.zeros_like(ids))
    _, expected, _ = read(model, ids)
    assert np.array_equal(after, expected)
    assert nats[0].tolist() == pytest.approx([np.log(23)] * 2)


def test_an_empty_text_changes_nothing() -> None:
    model = pack(make_model(SETTINGS[0]), "int8")
    before = read(model, text(3, 2))
    nats, *after = read(model, text(0, 2), before=before)
    assert nats.shape == (0, 2)
    assert_same_bits((before[0], *after), before)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [-1, 23])
def test_ids_that_there_are_not(wrong: int) -> None:
    model = pack(make_model(SETTINGS[0]), "int8")
    with pytest.raises(RuntimeError, match="an argument is not allowed"):
        read(model, np.full((1, 1), wrong))


def test_shapes_that_do_not_fit() -> None:
    model = pack(make_model(SETTINGS[0]), "int8")
    with pytest.raises(ValueError, match="one shape"):
        sampler.score(model, zeros(2), model.zero_state(2), text(3, 2), text(2, 2))
    with pytest.raises(ValueError, match="an array has the shape"):
        sampler.score(model, zeros(2), model.zero_state(3), text(3, 2), text(3, 2))
