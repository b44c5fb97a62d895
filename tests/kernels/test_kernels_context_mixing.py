"""A model that learns while it reads: its probabilities sum to 1, and are the same bits everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_variants import VARIANTS, at_each_variant, kernels_of

from scriven.arrays import Ids
from scriven.kernels import native_library
from scriven.kernels.context_mixing import (
    LEAST_MEMORY_BITS,
    NEWLINE,
    OTHER,
    SPACE,
    UNUSED,
    ContextMixer,
    Frequencies,
    Kinds,
    kinds_of,
    kinds_of_bytes,
    memory_bits_for,
)

pytestmark = pytest.mark.skipif(native_library.library() is None, reason=native_library.why())
TEXT = (Path(__file__).parents[2] / "docs" / "shapes.md").read_bytes()
CASES = st.sampled_from([1, 2, 3, 17, 65, 255, 256, 257, 4096, 4097, 65536])


def bytes_of(text: bytes) -> Ids:
    return np.frombuffer(text, np.uint8).astype(np.int64)


def kinds_for(symbols: int) -> Kinds:
    return kinds_of("a bc\nA.", symbols) if symbols >= 7 else np.zeros(symbols, np.int32)


def mixer_of(symbols: int = 256, memory_bits: int = LEAST_MEMORY_BITS) -> ContextMixer:
    return ContextMixer(kinds_of_bytes() if symbols == 256 else kinds_for(symbols), memory_bits)


def read(ids: Ids, symbols: int = 256, frequencies: Frequencies | None = None) -> npt.NDArray[np.float64]:
    with mixer_of(symbols) as mixer:
        return mixer.read(ids) if frequencies is None else mixer.read(ids, frequencies)


def drawn(seed: int, symbols: int, count: int) -> Ids:
    """Symbols with repetitions of all lengths."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, symbols, count)
    for _ in range(count // 20):
        begin, to, length = *sorted(random.integers(0, count, 2)), random.integers(0, count) // 8
        length = min(length, count - to)
        ids[to : to + length] = ids[begin : begin + length].copy()
    return ids


def predictions(seed: int, symbols: int, count: int) -> Frequencies:
    return np.random.default_rng(seed).integers(0, (1 << 32) // symbols, (count, symbols)).astype(np.uint32)


@at_each_variant
def test_all_levels_give_the_same_bits(variant: str) -> None:
    ids = bytes_of(TEXT)[:3500]
    with kernels_of(VARIANTS[0]):
        expected, bytes_expected = read(ids), encode(ids)
    with kernels_of(variant):
        assert read(ids).tobytes() == expected.tobytes()
        assert encode(ids) == bytes_expected


def encode(ids: Ids, symbols: int = 256, frequencies: Frequencies | None = None) -> bytes:
    with mixer_of(symbols) as mixer:
        return mixer.encode(ids, frequencies, last=True)


def test_the_bits_are_those_of_every_machine() -> None:
    """What was encoded before must be readable: a change of the model is a new version of archives."""
    ids = bytes_of(bytes(range(256)) + b"The cat sat on the mat.\nThe cat sat on the hat.\n" * 9)
    assert hashlib.sha256(encode(ids)).hexdigest()[:16] == "ac9fb205b6f692f5"


@pytest.mark.parametrize("symbols", [1, 2, 3, 5, 17, pytest.param(258, marks=pytest.mark.thorough)])
def test_probabilities_sum_to_1(symbols: int) -> None:
    count = 40 if symbols > 100 else 400
    ids, other = drawn(3, symbols, count), predictions(4, symbols, count + 1)
    for frequencies in (None, other)[symbols > 100 :]:
        total = 0.0
        for symbol in range(symbols):
            total += np.exp(-read(np.append(ids, symbol), symbols, frequencies)[-1])
        assert total == pytest.approx(1, abs=1e-12)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(CASES, st.integers(0, 300), st.integers(0, 2**32), st.booleans())
def test_what_is_encoded_can_be_decoded(symbols: int, count: int, seed: int, predicted: bool) -> None:
    count = min(count, 20) if symbols > 1000 else count
    ids, frequencies = drawn(seed, symbols, count), predictions(seed, symbols, count) if predicted else None
    encoded = encode(ids, symbols, frequencies)
    with mixer_of(symbols) as mixer:
        found = mixer.decode(np.frombuffer(encoded, np.uint8), count, frequencies)
    assert found.tolist() == ids.tolist()
    nats = read(ids, symbols, frequencies).sum()
    assert abs(len(encoded) * 8 - nats / np.log(2)) < 48 + 0.001 * count


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_pieces_of_any_size_give_the_same_bits(cut: int) -> None:
    ids = bytes_of(TEXT)[:3500]
    with mixer_of() as whole, mixer_of() as pieces, mixer_of() as coder, mixer_of() as decoder:
        found = [pieces.read(ids[begin : begin + cut]) for begin in range(0, ids.size, cut)]
        assert np.concatenate(found).tobytes() == whole.read(ids).tobytes()
        parts = [coder.encode(ids[i : i + cut], last=i + cut >= ids.size) for i in range(0, ids.size, cut)]
        encoded = np.frombuffer(b"".join(parts), np.uint8)
        assert encoded.tobytes() == encode(ids)
        decoded = [decoder.decode(encoded, min(cut, ids.size - i)) for i in range(0, ids.size, cut)]
        assert np.concatenate(decoded).tolist() == ids.tolist()


def test_copies_go_on_by_themselves() -> None:
    ids = bytes_of(TEXT)[:3000]
    expected = read(ids)
    with mixer_of() as mixer:
        mixer.read(ids[:1000])
        with mixer.copy() as one, mixer.copy() as other:
            other.read(ids[:500])
            assert one.read(ids[1000:]).tobytes() == expected[1000:].tobytes()
            assert mixer.read(ids[1000:]).tobytes() == expected[1000:].tobytes()
            with one.copy() as last:
                one.close()
                last.read(ids)
    with pytest.raises(ValueError, match="closed"):
        mixer.copy()


def test_it_learns_while_it_reads() -> None:
    nats = read(bytes_of(TEXT * 2))
    first, second = nats[: len(TEXT)].mean(), nats[len(TEXT) :].mean()
    assert first < 2.2 * np.log(2) * 1.5
    assert second < 0.1


def test_the_symbol_that_came_last_after_a_context_is_likelier() -> None:
    """After 'x' and a number, each of two symbols came equally often; in one text the last ones were alike."""
    random = np.random.default_rng(5)
    alike = np.repeat([1, 2], 200)
    costs = []
    for after in (alike, random.permutation(alike)):
        ids = np.stack((random.integers(3, 7, 400), np.zeros(400, np.int64), after), 1).ravel()
        costs.append(read(np.append(ids, [3, 0, 2]), 7)[-1])
    assert costs[0] < 0.2 * costs[1]


def test_another_models_predictions_take_part() -> None:
    ids = np.random.default_rng(1).integers(0, 256, 3000)
    sure = np.ones((ids.size, 256), np.uint32)
    sure[np.arange(ids.size), ids] = 100000
    assert read(ids, frequencies=sure).mean() < 0.1 * read(ids).mean()


def test_two_models_predictions_take_part() -> None:
    ids = np.random.default_rng(1).integers(0, 256, 3000)
    vague = np.ones((ids.size, 256), np.uint32)
    sure = vague.copy()
    sure[np.arange(ids.size), ids] = 100000
    with mixer_of() as one, mixer_of() as other, mixer_of(17) as small:
        assert one.read(ids, vague, sure).mean() < 0.3 * read(ids, frequencies=vague).mean()
        assert other.read(ids, sure, vague).mean() < 0.1 * read(ids, frequencies=vague).mean()
        with pytest.raises(ValueError, match="at most 2 other models can take part, not 3"):
            one.read(ids, sure, sure, sure)
        with pytest.raises(ValueError, match="frequencies must be"):
            small.read(np.array([1]), np.ones((1, 17), np.uint32), np.ones((1, 16), np.uint32))


@pytest.mark.parametrize("symbols", [2, 5, 17, 258])
def test_symbols_that_never_come_have_no_share(symbols: int) -> None:
    random = np.random.default_rng(7)
    used = np.sort(random.choice(symbols, max(1, symbols // 3), replace=False))
    kinds, ids = np.full(symbols, UNUSED, np.int32), random.choice(used, 50)
    kinds[used] = OTHER
    frequencies = np.zeros((51, symbols), np.uint32)
    frequencies[:, used] = random.integers(1, 1000, (51, used.size))
    total = 0.0
    for symbol in used:
        with ContextMixer(kinds, LEAST_MEMORY_BITS) as mixer:
            total += np.exp(-mixer.read(np.append(ids, symbol), frequencies)[-1])
    assert total == pytest.approx(1, abs=1e-12)
    with ContextMixer(kinds, LEAST_MEMORY_BITS) as mixer, pytest.raises(RuntimeError, match="an argument"):
        mixer.read(np.setdiff1d(np.arange(symbols), used))


def test_a_text_longer_than_what_is_remembered() -> None:
    ids = drawn(5, 256, 20_000)
    encoded = encode(ids)
    with mixer_of() as mixer:
        assert mixer.decode(np.frombuffer(encoded, np.uint8), ids.size).tolist() == ids.tolist()


def test_what_cannot_be_read_is_refused() -> None:
    with mixer_of(17) as mixer:
        for bad in (-1, 17):
            with pytest.raises(RuntimeError, match="an argument is not allowed"):
                mixer.read(np.array([bad]))
        with pytest.raises(ValueError, match="frequencies must be"):
            mixer.read(np.array([1]), np.ones((1, 16), np.uint32))
        with pytest.raises(ValueError, match="in one piece"):
            mixer.decode(np.zeros(8, np.uint8)[::2], 1)
    with pytest.raises(ValueError, match="closed"):
        mixer.read(np.array([1]))
    mixer.close()
    with pytest.raises(ValueError, match="1 to 65536"):
        ContextMixer(np.zeros(0, np.int32), 20)
    with pytest.raises(RuntimeError, match="an argument is not allowed"):
        ContextMixer(np.zeros(9, np.int32), 60)


def test_letters_are_the_same_in_both_cases() -> None:
    assert kinds_of(" aA.\né", 8).tolist() == [SPACE, 97, 97, OTHER, NEWLINE, 233, OTHER, OTHER]
    assert (kinds_of_bytes()[128:] > 0).all()


def test_memory_grows_with_the_text_up_to_a_bound() -> None:
    sizes = [memory_bits_for(10**power) for power in range(12)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (LEAST_MEMORY_BITS, 29)


def frequencies_for(mixer: ContextMixer, count: int, others: int) -> list[Frequencies]:
    """Predictions of so many other models, each of the next ids."""
    random = np.random.default_rng(others)
    return [random.integers(1, 1 << 16, (count, mixer.symbols)).astype(np.uint32) for _ in range(others)]


@pytest.mark.parametrize("symbols", [1, 2, 7, 129, 256, 300, 4097])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_distribution_is_what_reading_each_symbol_costs_and_changes_nothing(symbols: int, others: int) -> None:
    random = np.random.default_rng(1)
    ids = random.integers(0, symbols, 150) % random.integers(1, symbols + 1, 150)
    with mixer_of(symbols) as mixer, mixer_of(symbols) as untouched:
        for each in (mixer, untouched):
            each.read(ids, *frequencies_for(mixer, len(ids), others))
        for step in range(3):
            rows = frequencies_for(mixer, 1, others)
            found = mixer.distribution(*rows)
            assert found.sum() == pytest.approx(1, abs=1e-12)
            for symbol in range(0, symbols, max(1, symbols // 9)):
                with mixer.copy() as copied:
                    assert copied.read(np.array([symbol]), *rows)[0] == pytest.approx(-np.log(found[symbol]), abs=1e-12)
            nats = [
                each.read(ids[step : step + 50], *frequencies_for(mixer, 50, others)) for each in (mixer, untouched)
            ]
            assert nats[0].tolist() == nats[1].tolist()


def test_what_is_observed_is_context_and_no_evidence() -> None:
    ids = np.tile(np.arange(7), 30)
    with mixer_of(7) as reading, mixer_of(7) as observing:
        reading.read(ids)
        observing.observe(ids)
        costs = [each.read(np.arange(7)).sum() for each in (reading, observing)]
        assert costs[0] < 0.5 * costs[1]
        with pytest.raises(RuntimeError, match="observe failed"):
            observing.observe(np.array([7]))
    with mixer_of(7) as one, mixer_of(7) as other:
        one.read(ids[:20])
        other.read(ids[:20])
        one.observe(ids[20:40])
        for each in ids[20:40]:
            other.observe(np.array([each]))
        assert one.read(ids[40:60]).tolist() == other.read(ids[40:60]).tolist()
