"""Learning while reading with ongoing counts: finite and normalised; in pieces of any size, with any threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from scriven.arrays import Float32s, Float64s, Ids
from scriven.errors import InputError, UsageError
from scriven.inference import ongoing_counts, protocols
from scriven.inference.adaptive_mixture import AdaptiveMixture, MixedContext
from scriven.inference.chunks import StoredText
from scriven.inference.predictor import Predictor
from scriven.inference.protocols import AdaptiveTexts
from scriven.kernels import native_library
from scriven.kernels.context_mixing import MOST_SYMBOLS, ContextMixer, kinds_of, memory_bits_for
from scriven.vocabulary import Vocabulary
from small_model import Shelf, Text, cut, favour, mixture, predictor, predictor_of

pytestmark = pytest.mark.skipif(native_library.level() == "off", reason="there is no native library")
TALE = "the cat sat on a mat\nand a rat ran at noon\n" * 30
NEW = "the rat sat on the cat\nand a €bat ran\n" * 8


def of_text(tale: str = TALE) -> Predictor:
    network = predictor("".join(sorted({*tale})))
    return mixture(network, Text(network.vocabulary.encode(tale)))


def of_lines() -> Predictor:
    network = predictor("".join(sorted({*TALE})), "\n")
    return mixture(network, Shelf(*map(network.vocabulary.encode, TALE.split("\n")[:-1])))


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Predictor:
    """What the function of the parameter makes, once there is native code."""
    made: Predictor = request.param()
    return made


def new_ids(model: Predictor) -> Ids:
    ids = model.vocabulary.encode(NEW)
    if model.vocabulary.boundary is not None:
        ids[ids == model.vocabulary.encode("\n")] = model.vocabulary.boundary
    return ids


def nats_of(model: Predictor, ids: Ids, lengths: Sequence[int] = ()) -> Float64s:
    return nats_by(AdaptiveTexts(model), ids, lengths)


def nats_by(texts: AdaptiveTexts, ids: Ids, lengths: Sequence[int] = ()) -> Float64s:
    return np.concatenate([np.empty(0), *(each.nats for each in texts.surprisals(cut(ids, lengths)))])


def slow_nats(model: Predictor, ids: Ids, predicted: int) -> Float64s:
    """The cost of every known id, read one by one; the training text has no documents."""
    network = AdaptiveTexts(model.with_counts(None))._reader
    assert network is not None and model.training_text is not None and model.counts is not None
    text = model.training_text().read(0, model.training_text().characters)
    alone, known, costs = text[: len(text) - predicted], text[len(text) - predicted :], []
    characters = [chr(point) for point in model.vocabulary.symbols]
    numbers = np.array([*map(ord, characters), 128])
    kinds = np.full(129, -3, np.int32)
    kinds[numbers] = kinds_of(characters, len(numbers))

    def _shares(logits: Float32s) -> npt.NDArray[np.uint32]:
        rows = np.zeros((len(logits), 129), np.uint32)
        rows[:, numbers] = torch.from_numpy(logits).double().softmax(1).numpy() * (1 << 24) + 1
        return rows

    with ContextMixer(kinds, memory_bits_for(len(text))) as mixer:
        mixer.read(numbers[alone])
        static = network.writer(network.start())
        rows = _shares(static.predict(static.start(), known[:, None])[0][:, 0])
        mixer.read(numbers[known], rows, rows)
        learned, trained, seen = network.start(), static.start(), model.opening
        for symbol in ids[:, None]:
            after = learned.logits[:, None].copy()
            model.counts.mix(after, seen[:, None])
            costs.append(mixer.read(numbers[symbol], _shares(after[0]), _shares(trained.logits))[0])
            seen = np.append(seen, symbol)
            learned, trained = network.read(learned, symbol)[2], static.read(trained, symbol[:, None])
    return np.array(costs)


@pytest.mark.parametrize("predicted", [1, 100, 1000])
def test_both_score_first_and_learn_after(predicted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ongoing_counts, "PREDICTED", predicted)
    monkeypatch.setattr(ongoing_counts, "COUNTED_FOR_EACH_PREDICTED", 1)
    model = of_text()
    ids = model.vocabulary.clamp(new_ids(model))
    fast, slow = nats_of(model, ids), slow_nats(model, ids, predicted)
    # A logit's last digit may round to the next of 256 steps of a nat, in one symbol of hundreds.
    assert fast == pytest.approx(slow, abs=1 / 256)
    assert np.isclose(fast, slow, rtol=1e-4, atol=1e-4).mean() > 0.98


@pytest.mark.parametrize("model", [of_text, of_lines], ids=["text", "lines"], indirect=True)
def test_it_predicts_better_than_its_parts(model: Predictor) -> None:
    ids = new_ids(model)
    mixed, network = protocols.adaptive(model, [ids]).loss, protocols.adaptive(model.with_counts(None), [ids]).loss
    counts = protocols.adaptive(model.parts()["counts"], [ids]).loss
    assert mixed.total_nats < network.total_nats
    assert counts.total_nats < network.total_nats
    assert mixed.total_nats < 1.1 * counts.total_nats
    assert (mixed.characters, mixed.ends) == (network.characters, network.ends)
    assert (mixed.judged, counts.judged, network.judged) == (0, 0, network.characters)


@pytest.mark.parametrize("model", [of_text, of_lines], ids=["text", "lines"], indirect=True)
@pytest.mark.parametrize("lengths", [[1] * 70, [64, 64, 1], [63, 2], [130]])
def test_pieces_of_any_size_give_the_same_bits(model: Predictor, lengths: list[int]) -> None:
    ids = new_ids(model)
    assert nats_of(model, ids, lengths).tolist() == nats_of(model, ids).tolist()


def test_large_pieces_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_text()
    expected = nats_of(model, new_ids(model))
    monkeypatch.setattr(protocols, "LEARNED_AT_ONCE", 7)
    assert nats_of(model, new_ids(model)).tolist() == expected.tolist()


def test_threads_change_no_bit() -> None:
    found = []
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            model = of_text()
            found.append(nats_of(model, new_ids(model)).tolist())
        finally:
            torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_each_text_begins_after_the_training_text() -> None:
    model = of_text()
    texts, ids = AdaptiveTexts(model), new_ids(model)
    assert nats_by(texts, ids).tolist() == nats_by(texts, ids).tolist()
    by_turns = zip(texts.surprisals(cut(ids, [50])), texts.surprisals(cut(ids, [50])), strict=True)
    assert all(one.nats.tolist() == other.nats.tolist() for one, other in by_turns)


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary.of("a"),
        Vocabulary.of("a\n"),
        Vocabulary.of_bytes(),
        pytest.param(Vocabulary.of_bytes("\n"), marks=pytest.mark.thorough),
        Vocabulary.of("\naé", "\n"),
        Vocabulary.of("\n" + "".join(map(chr, range(0x4E00, 0x4E00 + 7430)))),
    ],
    ids=["a", "a and newline", "bytes", "documents of bytes", "documents", "7,432"],
)
def test_probabilities_of_all_symbols_sum_to_1(vocabulary: Vocabulary) -> None:
    network, size = predictor_of(vocabulary), vocabulary.size
    random = np.random.default_rng(3)
    ids = random.integers(0, size, 60)
    ends = np.flatnonzero(ids == vocabulary.boundary)
    documents = [each[each != vocabulary.boundary] for each in np.split(ids, ends)]
    model = mixture(network, Text(ids) if vocabulary.boundary is None else Shelf(*documents))
    begin, symbols = ids[:9], range(size) if size < 300 else [*random.integers(0, size, 9), size - 1]
    last = [nats_by(texts, np.append(begin, symbol))[-1] for texts in [AdaptiveTexts(model)] for symbol in symbols]
    assert np.isfinite(last).all()
    total = np.exp(-np.array(last)).sum()
    assert total == pytest.approx(1, abs=1e-9) if size < 300 else 0 < total < 1


def test_an_unseen_symbol_costs_as_much_as_the_unknown_and_a_guess() -> None:
    model = of_text()
    begin, (unseen,) = model.vocabulary.encode("the "), model.vocabulary.encode("€")
    costs = [nats_of(model, np.append(begin, each))[-1] for each in (unseen, model.vocabulary.unknown)]
    assert costs[0] == pytest.approx(costs[1] + model.vocabulary.unseen_nats)
    alone = nats_of(model.parts()["counts"], np.append(begin, unseen))
    assert np.isfinite(alone).all() and alone[-1] > model.vocabulary.unseen_nats


def test_an_empty_text_costs_nothing_and_needs_no_training_text() -> None:
    model = of_text()
    gone = Predictor(model.model, model.vocabulary, "fp32", counts=model.counts, training_text=missing)
    assert not nats_of(gone, np.empty(0, np.int64)).size
    with pytest.raises(InputError, match="it is gone"):
        nats_of(gone, new_ids(model))
    nats_of(gone.with_counts(None), new_ids(model))


def missing() -> StoredText:
    raise InputError("it is gone")


def test_only_the_last_characters_of_a_training_text_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ongoing_counts, "PRIMED", len(TALE))
    ids = new_ids(of_text())
    assert nats_of(of_text("a man sat\n" * 50 + TALE), ids)[0] != nats_of(of_text("a man sat\n" * 50), ids)[0]
    longer = Text(of_text().vocabulary.encode("at noon\n" * 50 + TALE))
    model = of_text()
    other = Predictor(model.model, model.vocabulary, "fp32", counts=model.counts, training_text=lambda: longer)
    assert nats_of(other, ids).tolist() == nats_of(model, ids).tolist()


def test_numbers_that_are_not_finite_are_seen() -> None:
    model = of_text()
    favour(model, 0, math.inf)
    assert np.isnan(nats_of(model, new_ids(model))).all()


def test_documents_alone_are_of_the_network() -> None:
    model = of_lines()
    alone, network = (
        nats_by(AdaptiveTexts(each, documents_alone=True), new_ids(model)) for each in (model, model.with_counts(None))
    )
    assert alone.tolist() == network.tolist()


def test_too_many_symbols_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_SYMBOLS == 65_536
    monkeypatch.setattr(ongoing_counts, "MOST_SYMBOLS", 128 + 0)
    with pytest.raises(UsageError, match="ongoing counts have at most 0 symbols, and this model has 14"):
        AdaptiveTexts(of_text())
    AdaptiveTexts(of_text().with_counts(None))


def test_a_stop_ends_the_reading_of_the_training_text() -> None:
    model, asked = of_text(), 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        raise KeyboardInterrupt

    texts = AdaptiveTexts(model.with_check_stop(stop).parts()["counts"])
    with pytest.raises(KeyboardInterrupt):
        nats_by(texts, new_ids(model))
    assert asked == 1


def mixed(context: object) -> MixedContext:
    assert isinstance(context, MixedContext)
    return context


@pytest.mark.parametrize("model", [of_text, of_lines], ids=["text", "lines"], indirect=True)
def test_contexts_are_values_with_and_without_their_counts(model: Predictor) -> None:
    """Whether counts go on, are copied or made again from the history, the bits are those of a text alone."""
    ids, reader = new_ids(model), AdaptiveMixture(model)
    alone = nats_of(model, ids).tolist()
    start = reader.start()
    first, _, before = reader.read(start, ids[:100])
    assert first.tolist() == alone[:100]
    for _ in range(2):  # the context can be continued many times
        assert reader.read(before, ids[100:])[0].tolist() == alone[100:]
    used = reader.read(before, ids[100:], reuse=True)[0]
    assert mixed(before).partners.copy() is None
    assert reader.read(before, ids[100:], reuse=True)[0].tolist() == used.tolist() == alone[100:]
    assert reader.read(before, ids[100:])[0].tolist() == alone[100:]
    assert mixed(before).partners.copy() is not None  # they were made again, for the next time


@pytest.mark.parametrize("model", [of_text, of_lines], ids=["text", "lines"], indirect=True)
def test_what_was_written_is_context_for_counts_and_not_counted(model: Predictor) -> None:
    ids, reader = new_ids(model), AdaptiveMixture(model)
    _, _, before = reader.read(reader.start(), ids[:100])
    written = [replace(before, written=each) for each in (ids[100:130], ids[100:110])]
    again = replace(reader.settle(written[1]), written=ids[110:130])
    nats = [reader.read(each, ids[130:])[0] for each in (*written, again)]
    assert nats[0] == pytest.approx(nats[2], abs=1e-4)  # the network read it in two pieces
    assert nats[0].tolist() != nats[1].tolist()
    read = reader.read(before, ids[100:])[0][30:]
    assert nats[0].tolist() != read.tolist()
    assert nats[0].mean() == pytest.approx(read.mean(), abs=0.3)
    mixed(before).partners.take()
    assert [reader.read(each, ids[130:])[0].tolist() for each in (*written, again)] == [each.tolist() for each in nats]


def test_the_next_probabilities_are_what_the_next_symbol_costs() -> None:
    model = of_text()
    ids, reader = new_ids(model), AdaptiveMixture(model)
    for count in (0, 1, 64, 99):
        ready = reader.ready(reader.read(reader.start(), ids[:count])[2])
        chances = reader.probabilities(ready)
        assert chances.sum() == pytest.approx(1, abs=1e-9)
        for symbol in range(model.vocabulary.size):
            cost = reader.read(ready, np.array([symbol]))[0][0]
            assert cost == pytest.approx(-np.log(chances[symbol]), abs=1e-9)


def test_two_threads_that_use_up_one_context_get_the_same_bits() -> None:
    model = of_text()
    ids, reader = new_ids(model), AdaptiveMixture(model)
    _, _, before = reader.read(reader.start(), ids[:100])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: reader.read(before, ids[100:], reuse=True)[0].tolist(), range(4)))
    assert found == [nats_of(model, ids).tolist()[100:]] * 4
