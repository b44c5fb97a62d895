"""The native sampler against torch and `inference.sampling`, at every library that runs here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_variants import VARIANTS, at_each_variant, kernels_of

from scriven.arrays import Float32s, Float64s, Ids, State, as_numpy
from scriven.inference import sampling
from scriven.kernels import native_library, packing
from scriven.kernels import sampler as native
from scriven.kernels.packing import CELLS, PRECISIONS
from scriven.kernels.sampler import Sampler
from scriven.model import CharLM, language_model
from scriven.sampling_settings import SamplingSettings
from scriven.settings import ModelSettings

pytestmark = pytest.mark.skipif(native_library.level() == "off", reason=native_library.why())
FILTERED = SamplingSettings(top_k=12, top_p=0.9, min_p=0.02)
GREEDY = SamplingSettings(temperature=0)
Text = tuple[Ids, Float32s, State]

SETTINGS = [
    ModelSettings(width=40),
    ModelSettings(width=1, layers=1),
    ModelSettings(width=257, cell="gru", layers=1),
    ModelSettings(width=40, cell="rnn", layers=3),
    ModelSettings(width=17, layers=3, residual=True, norm="rms", embedding=5),
    ModelSettings(width=33, cell="gru", activation="tanh,relu", norm="layer"),
    ModelSettings(width=20, activation="relu,tanh", tied=True, residual=True, norm="layer"),
    ModelSettings(width=80, cell="rnn", input="onehot"),
    ModelSettings(width=24, cell="gru", head="none"),
    ModelSettings(width=24, cell="rnn", activation="relu", input="onehot", head="none", layers=1),
    ModelSettings(width=40, cell="mingru", layers=3, residual=True, norm="rms"),
    ModelSettings(width=33, cell="mingru", input="onehot"),
    ModelSettings(width=40, members=2),
    ModelSettings(width=17, layers=3, members=2, residual=True, norm="rms", embedding=5, activation="tanh,relu,tanh"),
    ModelSettings(width=24, cell="gru", layers=1, head="none", members=3),
    ModelSettings(width=33, cell="mingru", input="onehot", members=2),
]


def make_model(settings: ModelSettings, symbols: int = 23) -> CharLM:
    """A model of random weights, biases and norms too."""
    torch.manual_seed(1)
    model = language_model.make_model(settings, symbols).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "bias" in name or "norm" in name:
                weight.add_(torch.randn_like(weight) / 5)
    return model


def zeros(rows: int, symbols: int = 23) -> Float32s:
    return np.zeros((rows, symbols), np.float32)


def pack(model: CharLM, precision: str = "fp32", boundary: int | None = None) -> Sampler:
    return Sampler(model.settings, model.state_dict(), precision, boundary)


def numbers(count: int, rows: int) -> Float64s:
    return np.random.default_rng(7).random((count, rows))


def write(sampler: Sampler, symbols: int, uniforms: Float64s, settings: SamplingSettings = FILTERED) -> Text:
    rows = uniforms.shape[1]
    return sampler.write(zeros(rows, symbols), sampler.zero_state(rows), settings, uniforms)


@torch.no_grad()
def slow(model: CharLM, uniforms: Float64s, boundary: int | None = None) -> Text:
    """One character after another, by torch."""
    rows, state = uniforms.shape[1], None
    logits, ids = torch.zeros(rows, model.vocabulary_size), []
    for row in uniforms:
        ids.append(sampling.draw(logits.double().numpy(), FILTERED, row, [model.unknown]))
        read = torch.from_numpy(ids[-1])[None]
        after, state = model(read, state, None if boundary is None else read == boundary)
        logits = after[0]
    last = state or model.zero_state(rows)
    return np.array(ids), logits.numpy(), tuple(tuple(map(as_numpy, layer)) for layer in last)


def round_matrices(model: CharLM, precision: str) -> CharLM:
    """The model with those matrices rounded that are packed in a precision."""
    looked_up = ("embedding.weight", "layers.0.rnn.weight_ih_l0")
    weights = {
        name: weight.clone()
        for name, weight in model.state_dict().items()
        if "weight" in name and "norm" not in name and not name.endswith(looked_up)
    }
    result = language_model.make_model(model.settings.model_copy(update={"tied": False}), model.vocabulary_size).eval()
    for name, weight in weights.items():
        scale = weight.abs().amax(1, keepdim=True) / 127
        weights[name] = weight.bfloat16().float() if precision == "bf16" else (weight / scale).round() * scale
    result.load_state_dict(model.state_dict() | (weights if precision != "fp32" else {}))
    return result


def assert_equal(left: Text, right: Text) -> None:
    assert left[0].tolist() == right[0].tolist()
    assert np.array_equal(left[1], right[1])
    assert all(np.array_equal(a, b) for x, y in zip(left[2], right[2], strict=True) for a, b in zip(x, y, strict=True))


@at_each_variant
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_writes_what_torch_does(settings: ModelSettings, precision: str, variant: str) -> None:
    model, uniforms = make_model(settings), numbers(25, 3)
    ids, logits, state = write(pack(model, precision, boundary=21), 23, uniforms)
    expected = slow(round_matrices(model, precision), uniforms, boundary=21)
    assert ids.tolist() == expected[0].tolist()
    torch.testing.assert_close((logits, state), expected[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_int8_differs_by_the_rounding_of_what_is_multiplied(settings: ModelSettings) -> None:
    """What the weights are multiplied with has 8 bits: an error of 1/254 of the largest for each, at most."""
    model, uniforms = make_model(settings), numbers(4, 3)
    ids, logits, _ = write(pack(model, "int8"), 23, uniforms, SamplingSettings(temperature=1))
    with torch.no_grad():
        expected, _ = round_matrices(model, "int8")(torch.from_numpy(ids))
    assert np.abs(logits - expected[-1].numpy()).max() < 0.02 * max(1.0, float(expected[-1].abs().max()))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_all_variants_give_the_same_bits(settings: ModelSettings, precision: str) -> None:
    model, uniforms, texts = make_model(settings), numbers(12, 5), []
    for variant in VARIANTS if precision == "int8" else VARIANTS[1:]:  # without fused multiply-add sums are others
        with kernels_of(variant):
            texts.append(write(pack(model, precision), 23, uniforms))
    for text in texts:
        assert_equal(texts[0], text)


@at_each_variant
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("rows", [3, 33])
def test_a_row_does_not_depend_on_those_beside_it(cell: str, precision: str, variant: str, rows: int) -> None:
    model = make_model(ModelSettings.model_validate({"cell": cell, "width": 70}))
    sampler, uniforms = pack(model, precision), numbers(8, rows)
    ids, logits, state = write(sampler, 23, uniforms)
    for row in {0, rows // 2, rows - 1}:
        alone = write(sampler, 23, uniforms[:, row : row + 1])
        part = slice(row, row + 1)
        assert_equal(alone, (ids[:, part], logits[part], tuple(tuple(x[part] for x in layer) for layer in state)))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [17, 33, 70])
def test_threads_share_rows_and_change_nothing(precision: str, rows: int) -> None:
    model = make_model(ModelSettings(width=40))
    sampler, uniforms = pack(model, precision), numbers(9, rows)
    alone = write(sampler, 23, uniforms)
    torch.set_num_threads(3)
    together = write(sampler, 23, uniforms)
    torch.set_num_threads(1)
    assert_equal(alone, together)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_threads_share_weights_and_change_nothing(
    settings: ModelSettings, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few rows, where the weights do not fit in one core's cache; documents end and begin meanwhile."""
    sampler = pack(make_model(settings), precision, boundary=21)
    ended = False
    for rows, window in ((1, 0), (16, 0), (2, 3)):
        texts = []
        for threads in (1, 2, 3):
            monkeypatch.setattr(sampler, "threads_for", {rows: threads}.get)
            start = zeros(rows), sampler.zero_state(rows), SamplingSettings()
            texts.append(sampler.write(*start, numbers(20, rows), window))
        ended |= bool((texts[0][0] == 21).any())
        assert_equal(texts[0], texts[1])
        assert_equal(texts[0], texts[2])
    assert ended  # in one of 380 draws, each of which may be the boundary


def test_as_many_threads_as_have_room_for_the_weights_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = (
        make_model(ModelSettings(width=64)),
        list[object](),
    )  # 3 * 4 * 64 * 64 weights, and the head's 2 blocks of 16
    monkeypatch.setattr(native, "CACHE_BYTES", 48 * 1024)
    monkeypatch.setattr(native_library, "declare", lambda *_: lambda: 0)  # the system does not say what a cache holds
    monkeypatch.setattr(native_library, "function_of", lambda _: lambda arguments: asked.append(arguments.threads))
    torch.set_num_threads(3)
    write(pack(model, "int8"), 23, numbers(1, 16))
    write(pack(model, "fp32"), 23, numbers(1, 16))
    write(pack(model, "fp32"), 23, numbers(1, 17))
    torch.set_num_threads(1)
    assert asked == [2, 3, 2]


def test_each_row_is_drawn_by_its_own_settings_from_the_zero_state_where_there_is_none() -> None:
    sampler, uniforms = pack(make_model(ModelSettings(width=30)), "int8"), numbers(9, 3)
    settings = [SamplingSettings(temperature=0), FILTERED, SamplingSettings(temperature=2)]
    ids, _, _ = sampler.write(zeros(3), None, settings, uniforms)
    for row, own in enumerate(settings):
        assert ids[:, row].tolist() == write(sampler, 23, uniforms[:, row : row + 1], own)[0][:, 0].tolist()


@at_each_variant
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("before", [0, 2, 5])
def test_through_a_window_the_last_ids_are_read_from_the_zero_state(
    cell: str, precision: str, before: int, variant: str
) -> None:
    """The slow way: read the window anew, by itself, for each id."""
    sampler = pack(make_model(ModelSettings.model_validate({"cell": cell, "width": 20})), precision, boundary=21)
    uniforms, recent = numbers(9, 18), np.random.default_rng(2).integers(0, 22, (before, 18))
    state = tuple(tuple(part + 1 for part in layer) for layer in sampler.zero_state(18))
    ids, logits, after = sampler.write(zeros(18), state, FILTERED, uniforms, 5, recent)
    assert_equal((ids, logits, state), (ids, logits, after))
    seen, expected = recent, zeros(18)
    for row in range(9):
        drawn, _, _ = sampler.write(expected, None, FILTERED, uniforms[row : row + 1])
        assert ids[row].tolist() == drawn[0].tolist()
        seen, state_now = np.concatenate((seen, drawn))[-5:], sampler.zero_state(18)
        for each in seen:
            _, expected, state_now = sampler.write(certain(each), state_now, GREEDY, uniforms[:1])
    assert np.array_equal(logits, expected)


def certain(ids: Ids) -> Float32s:
    """Logits that leave no choice but these ids."""
    return np.float32(1e9) * np.eye(23, dtype=np.float32)[ids]


@given(
    logits=st.lists(st.integers(-60, 20).map(lambda n: n / 4), min_size=2, max_size=40),
    settings=st.builds(
        SamplingSettings,
        temperature=st.sampled_from([0.0, 1e-300, 0.3, 1.0, 2.5, 1e300]),
        top_k=st.integers(0, 41),
        top_p=st.sampled_from([1.0, 0.97, 0.61, 0.11, 1e-9]),
        min_p=st.sampled_from([0.0, 0.03, 0.5, 1.0]),
    ),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_draws_by_the_rules(logits: list[float], settings: SamplingSettings, uniform: float) -> None:
    """Also where symbols tie: multiples of 1/4 often do."""
    row, uniforms = np.array([[*logits, 30.0]]), np.array([uniform])
    sampler = pack(make_model(ModelSettings(width=1, layers=1), len(logits) + 1))
    ids, _, _ = sampler.write(row.astype(np.float32), sampler.zero_state(1), settings, uniforms[None])
    assert ids[0].tolist() == sampling.draw(row, settings, uniforms, [len(logits)]).tolist()


@pytest.mark.parametrize(("symbols", "spread"), [(5000, 3.0), (128, 3.0), (128, 1e-3)])
def test_draws_from_many_symbols_by_the_rules(symbols: int, spread: float) -> None:
    """Also where weights are so near that the keys they are ranked by are the same."""
    sampler = pack(make_model(ModelSettings(width=1, layers=1), symbols))
    logits = np.random.default_rng(1).normal(0, spread, (64, symbols)).astype(np.float32)
    for settings in (FILTERED, SamplingSettings(top_p=0.99), SamplingSettings(top_k=3000), SamplingSettings()):
        uniforms = numbers(1, 64)
        ids, _, _ = sampler.write(logits, sampler.zero_state(64), settings, uniforms)
        expected = sampling.draw(logits.astype(np.float64), settings, uniforms[0], [symbols - 1])
        assert ids[0].tolist() == expected.tolist()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_in_pieces_it_is_the_same_text_and_arguments_stay(precision: str) -> None:
    model, uniforms = make_model(ModelSettings(width=19)), numbers(10, 2)
    sampler = pack(model, precision)
    whole = write(sampler, 23, uniforms)
    first = write(sampler, 23, uniforms[:4])
    nothing = sampler.write(*first[1:], FILTERED, uniforms[:0])
    before = first[1].copy()
    second = sampler.write(*nothing[1:], FILTERED, uniforms[4:])
    assert np.array_equal(first[1], before)
    assert_equal(whole, (np.concatenate((first[0], second[0])), *second[1:]))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_without_a_table_products_with_the_embedding_are_computed(
    cell: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, uniforms = (
        make_model(ModelSettings.model_validate({"cell": cell, "width": 30, "embedding": 7})),
        numbers(6, 3),
    )
    settings = SamplingSettings(temperature=1)
    with_table = write(pack(model, precision), 23, uniforms, settings)
    monkeypatch.setattr(packing, "TABLE_BYTES", 0)
    without = write(pack(model, precision), 23, uniforms, settings)
    assert without[0].tolist() == with_table[0].tolist()
    closeness = {"fp32": 1e-5, "bf16": 5e-3, "int8": 3e-2}[precision]
    torch.testing.assert_close(without[1], with_table[1], rtol=0, atol=closeness)


@at_each_variant
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [0.0, 1e-42, 1e30, float("inf"), float("nan")])
def test_any_numbers_are_survived(precision: str, variant: str, size: float) -> None:
    for cell in ("lstm", "gru", "rnn"):
        model = make_model(ModelSettings.model_validate({"cell": cell, "width": 20, "activation": "relu"}))
        sampler, uniforms = pack(model, precision), numbers(5, 3)
        state = tuple(tuple(part + size for part in layer) for layer in sampler.zero_state(3))
        ids, logits, _ = sampler.write(np.full((3, 23), size, np.float32), state, FILTERED, uniforms)
        assert ((ids >= 0) & (ids < 22)).all()
        assert np.isfinite(logits).all() or not size <= 1


def test_denormal_numbers_are_flushed_inside_only() -> None:
    write(pack(make_model(ModelSettings(width=8))), 23, numbers(2, 1))
    assert float(torch.tensor([1e-39]) * 0.5) > 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    sampler = pack(make_model(ModelSettings(width=8)))
    with pytest.raises(ValueError, match=r"\(2, 22\), not \(2, 23\)"):
        write(sampler, 22, numbers(1, 2))
    with pytest.raises(ValueError, match=r"has the shape \(1, 8\), not \(2, 8\)"):
        sampler.write(zeros(2), sampler.zero_state(1), FILTERED, numbers(1, 2))
    with pytest.raises(ValueError, match="settings for 1 rows"):
        sampler.write(zeros(2), None, [FILTERED], numbers(1, 2))
    for recent in (-1, 23):
        with pytest.raises(ValueError, match=f"recent ids from {recent} to {recent}, of 23"):
            sampler.write(zeros(1), None, FILTERED, numbers(1, 1), 4, np.array([[recent]]))
