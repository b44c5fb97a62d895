"""A network's logits mixed with counts in native code, as text is written and scored, are those of slow code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from kernel_variants import VARIANTS, at_each_variant, kernels_of

from scriven.arrays import Float32s, Float64s, Ids
from scriven.inference import sampling
from scriven.kernels import native_library, sampler
from scriven.kernels.counts import NgramCounter, NgramMixture, NgramTable
from scriven.kernels.sampler import Sampler
from scriven.model import CharLM
from scriven.sampling_settings import SamplingSettings
from scriven.settings import ModelSettings

pytestmark = pytest.mark.skipif(native_library.level() == "off", reason=native_library.why())
SYMBOLS, BOUNDARY = 23, 21
DRAWING = SamplingSettings(temperature=0.9, top_k=12)


def make_table() -> NgramTable:
    random = np.random.default_rng(4)
    ids = np.where(random.random(4000) < 0.8, np.arange(4000) * 7 % 20, random.integers(0, SYMBOLS - 1, 4000))
    with NgramCounter(SYMBOLS, ids.size, boundary=BOUNDARY) as counter:
        counter.count(ids)
        return counter.finish()[0]


def make_mixture(longest: int | None = None) -> NgramMixture:
    table = make_table()
    return NgramMixture(table, np.random.default_rng(5).random((table.longest + 1, 2)), longest)


def make_sampler(precision: str = "int8") -> Sampler:
    torch.manual_seed(1)
    model = CharLM(ModelSettings(width=24), SYMBOLS).eval()
    return Sampler(model.settings, model.state_dict(), precision, BOUNDARY)


def seen(rows: int, length: int = 5) -> Ids:
    return np.random.default_rng(6).integers(0, SYMBOLS, (length, rows))


def mixed(mixture: NgramMixture, logits: Float32s, before: Ids) -> Float32s:
    """The logits (N, V) of what follows `before` (T, N), of which there may be none."""
    found = logits.copy()
    if len(before):
        mixture.mix(found[None], before[-mixture.longest :])
    return found


def slow(mixture: NgramMixture, uniforms: Float64s, recent: Ids, window: int = 0) -> tuple[Ids, Float32s]:
    """One id after another: mix, draw, read."""
    network, rows, ids = make_sampler(), uniforms.shape[1], recent
    logits, state = np.zeros((rows, SYMBOLS), np.float32), network.zero_state(rows)
    for row in uniforms:
        drawn = sampling.draw(mixed(mixture, logits, ids).astype(np.float64), DRAWING, row, [SYMBOLS - 1])
        ids = np.concatenate((ids, drawn[None]))
        read = ids[-window:] if window else drawn[None]
        if window:
            state = network.zero_state(rows)
        *_, logits, state = sampler.score(network, logits, state, read, read)
    return ids[len(recent) :], logits


def write(mixture: NgramMixture, uniforms: Float64s, recent: Ids | None, window: int = 0) -> tuple[Ids, Float32s]:
    network, rows = make_sampler(), uniforms.shape[1]
    logits, state = np.zeros((rows, SYMBOLS), np.float32), network.zero_state(rows)
    ids, logits, _ = network.write(logits, state, DRAWING, uniforms, window, recent, mixture=mixture)
    return ids, logits


@at_each_variant
@pytest.mark.parametrize(("rows", "length", "window", "longest"), [(1, 5, 0, None), (3, 0, 0, 3), (18, 9, 4, 5)])
def test_text_is_drawn_from_the_mixture(variant: str, rows: int, length: int, window: int, longest: int | None) -> None:
    mixture, uniforms, recent = make_mixture(longest), np.random.default_rng(7).random((20, rows)), seen(rows, length)
    ids, logits = write(mixture, uniforms, recent if length else None, window)
    expected, after = slow(mixture, uniforms, recent, window)
    assert ids.tolist() == expected.tolist()
    assert np.array_equal(logits, after)  # those of the network
    plain = make_sampler().write(np.zeros((rows, SYMBOLS), np.float32), None, DRAWING, uniforms, window)[0]
    assert plain.tolist() != ids.tolist()


def test_threads_and_rows_change_no_bit_of_written_text(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture, uniforms, recent = make_mixture(), np.random.default_rng(7).random((12, 50)), seen(50)
    whole = write(mixture, uniforms, recent)
    monkeypatch.setattr(Sampler, "threads_for", lambda self, rows: 3)
    for rows in (slice(0, 50), slice(7, 8), slice(20, 24)):
        ids, logits = write(mixture, uniforms[:, rows], recent[:, rows])
        assert ids.tolist() == whole[0][:, rows].tolist()
        assert np.array_equal(logits, whole[1][rows])


def costs(mixture: NgramMixture, ids: Ids, recent: Ids | None, threads: int = 1, cuts: Sequence[int] = ()) -> Float64s:
    network, rows = make_sampler(), ids.shape[1]
    logits, state, nats = np.zeros((rows, SYMBOLS), np.float32), network.zero_state(rows), []
    for piece in np.split(ids, cuts):
        found, _, logits, state = sampler.score(
            network, logits, state, piece, piece, threads, recent=recent, mixture=mixture
        )
        nats.append(found)
        recent = piece if recent is None else np.concatenate((recent, piece))
    return np.concatenate(nats)


@pytest.mark.parametrize(("rows", "length"), [(1, 5), (3, 0), (70, 2)])
def test_text_costs_what_the_mixture_says(rows: int, length: int) -> None:
    mixture, ids, recent = make_mixture(), np.random.default_rng(8).integers(0, SYMBOLS, (90, rows)), seen(rows, length)
    network, before = make_sampler(), recent
    logits, state = np.zeros((rows, SYMBOLS), np.float32), network.zero_state(rows)
    expected = []
    for row in ids:
        p = torch.from_numpy(mixed(mixture, logits, before)).double().log_softmax(-1).numpy()
        expected.append(-p[np.arange(rows), row])
        *_, logits, state = sampler.score(network, logits, state, row[None], row[None])
        before = np.concatenate((before, row[None]))
    found = costs(mixture, ids, recent if length else None)
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-5, atol=1e-5)
    for variant in VARIANTS:
        with kernels_of(variant):
            assert costs(mixture, ids, recent if length else None).tolist() == found.tolist()
    assert costs(mixture, ids, recent if length else None, threads=3, cuts=(1, 40)).tolist() == found.tolist()


def test_the_probabilities_of_a_mixture_sum_to_1() -> None:
    mixture, network, rows = make_mixture(), make_sampler(), SYMBOLS
    logits, ids = torch.randn(1, SYMBOLS).expand(rows, -1).numpy(), np.arange(rows)[None]
    nats = sampler.score(
        network, logits, network.zero_state(rows), ids, ids, recent=seen(1).repeat(rows, 1), mixture=mixture
    )
    assert np.exp(-nats[0]).sum() == pytest.approx(1, abs=1e-6)


def test_ids_that_there_are_not_are_refused() -> None:
    network, ids = make_sampler(), np.zeros((1, 1), np.int64)
    logits, state = np.zeros((1, SYMBOLS), np.float32), network.zero_state(1)
    for wrong in (-1, SYMBOLS):
        with pytest.raises(RuntimeError):
            sampler.score(network, logits, state, ids, ids, recent=np.array([[wrong]]), mixture=make_mixture())
        with pytest.raises(ValueError, match="recent ids"):
            network.write(logits, state, DRAWING, np.zeros((1, 1)), recent=np.array([[wrong]]), mixture=make_mixture())


def test_counts_are_judged() -> None:
    table, ids = make_table(), np.random.default_rng(9).integers(0, SYMBOLS, (3, 60))
    nats, right = table.judge(ids, first=2, threads=2)
    assert nats.tolist() == table.score(ids, first=2).tolist()
    for place in (2, 3, 30, 59):
        likeliest = table.distribution(ids[:, :place]).argmax(1)
        assert right[:, place - 2].tolist() == (likeliest == ids[:, place]).tolist()
