"""A network that is trained beside counts: both are measured, and mixed where that predicts unseen text better."""

from __future__ import annotations

import pickle
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fork_server import PYTHON
from scriven import load, load_session, recipes
from scriven.arrays import Float64s, Ids
from scriven.corpus.store import Corpus
from scriven.errors import InputError, UsageError
from scriven.events import Compared, Evaluated, Event, Finished, Started, Stepped
from scriven.inference.predictor import Predictor
from scriven.inference.protocols import measure
from scriven.kernels import native_library
from scriven.kernels.counts import NgramCounter, NgramMixture, NgramTable
from scriven.report.files import FilesReport
from scriven.runs import open_run
from scriven.runs.ngrams import COUNTS_FILE, MixtureWeights
from scriven.runs.summary import summarize
from scriven.sampling_settings import SamplingSettings
from scriven.settings import ModelSettings
from scriven.settings_values import merge_settings, validate
from scriven.training import mixing
from scriven.training.mixing import DISCOUNT, count_text, fit_mixture, most_context, most_counted
from scriven.training.request import Request
from scriven.training.start import train
from small_model import Shelf
from small_model import predictor as small_predictor

pytestmark = pytest.mark.skipif(native_library.level() == "off", reason="there is no native library")

SMALL: dict[str, Any] = {
    "budget": {"steps": 6},
    "model": {"width": 8, "layers": 1},
    "reader": {"batch": 4, "length": 16},
    "training": {"workers": 1, "threads": 1, "precision": "fp32"},
    "monitor": {"every_steps": 3, "sample_length": 0},
}
READERS: dict[str, dict[str, Any]] = {
    "stream": {},
    "documents": {"corpus": {"documents": "lines"}},
    "bytes": {"corpus": {"unit": "byte"}},
    "windows": {"reader": {"kind": "windows", "length": 12}},
    "last": {"reader": {"kind": "windows", "length": 12, "loss": "last"}},
}


def a_tale(lines: int = 500, seed: int = 1) -> str:
    """Sentences of a few words, which counts predict well."""
    random = np.random.default_rng(seed)
    words = ["the cat", "a rat", "sat", "on a mat", "and", "spat", "ran", "at noon", "with a hat", "again"]
    return "\n".join(" ".join(random.choice(words, 5)) for _ in range(lines)) + "\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "tale.txt"
    path.write_text(a_tale())
    return path


def trained(text: Path, output: Path, over: dict[str, Any] | None = None) -> list[Event]:
    settings, files = validate(merge_settings(SMALL, over or {})), FilesReport()
    events = list(train(Request((str(text),), settings, output, initial="none")))
    for event in events:
        files.handle(event)
    files.close()
    return events


def fingerprints(events: list[Event]) -> list[str]:
    return [event.fingerprint for event in events if isinstance(event, Stepped)]


@pytest.mark.parametrize("name", READERS)
def test_a_network_is_measured_beside_counts_and_mixed_with_them(name: str, text: Path, tmp_path: Path) -> None:
    events = trained(text, tmp_path / "run", READERS[name])
    compared = [event for event in events if isinstance(event, Compared)]
    finals = [event for event in events if isinstance(event, Evaluated) and event.final]
    assert [(event.model, event.final) for event in compared[:1]] == [("counts", False)]
    assert [(each.model, each.protocol) for each in compared if each.final] == [
        (model, each.protocol) for each in finals for model in ("mixture", "counts")
    ]
    losses = {each.model: each.loss.nats_per_char for each in compared if each.protocol == finals[0].protocol}
    assert losses["mixture"] < min(losses["counts"] + 0.02, finals[0].loss.nats_per_char)
    used = next(each.loss for each in compared if each.final and each.model == "mixture")
    started, finished = events[0], events[-1]
    assert isinstance(started, Started) and isinstance(finished, Finished)
    assert started.counts and (finished.best, finished.network_alone) == (used, False)
    assert summarize(open_run(tmp_path / "run")).loss == used
    checkpoint = open_run(tmp_path / "run").checkpoint("best")
    assert checkpoint.mixture is not None
    assert checkpoint.manifest["counts"]["characters"] == compared[0].loss.characters
    model = load(tmp_path / "run")
    assert model.predictor.counts is not None
    corpus = Corpus.open(open_run(tmp_path / "run").corpus_path)
    found = measure(finals[0].protocol, model.predictor, corpus.validation, lanes_at_most=1).loss
    assert found == used


def test_counts_change_no_bit_of_the_network(text: Path, tmp_path: Path) -> None:
    with_counts = trained(text, tmp_path / "with")
    without = trained(text, tmp_path / "without", {"model": {"counts": "none"}})
    assert fingerprints(with_counts) == fingerprints(without)
    assert not (tmp_path / "without" / COUNTS_FILE).exists()
    assert not [event for event in without if isinstance(event, Compared)]
    losses = [[event.loss for event in events if isinstance(event, Evaluated)] for events in (with_counts, without)]
    assert losses[0] == losses[1]
    one, other = (load(tmp_path / name, counts="none") for name in ("with", "without"))
    assert one.sample("The", seed=1, length=30) == other.sample("The", seed=1, length=30)
    assert one.score("the cat sat").nats == other.score("the cat sat").nats
    assert load(tmp_path / "with").score("the cat sat").nats < one.score("the cat sat").nats


def test_workers_and_a_resume_change_no_bit(text: Path, tmp_path: Path) -> None:
    over = {"training": {"groups": 2}}
    whole = trained(text, tmp_path / "whole", over)
    two = trained(text, tmp_path / "two", {"training": {"groups": 2, "workers": 2}})
    settings = validate(merge_settings(SMALL, over))
    cut = list(train(Request((str(text),), settings, tmp_path / "cut", initial="none", until=4)))
    rest = list(train(Request((), validate({}), tmp_path / "cut", resume="last")))
    again = list(train(Request(output=tmp_path / "again", replay=tmp_path / "whole")))
    assert isinstance(cut[-1], Finished) and cut[-1].network_alone  # no mixture was measured yet
    compared = [[(each.model, each.loss) for each in events if isinstance(each, Compared)] for events in (whole, two)]
    assert compared[0] == compared[1] != []
    assert compared[0] == [(each.model, each.loss) for each in [*cut, *rest] if isinstance(each, Compared)]
    assert fingerprints(again) == fingerprints(whole)
    weights = [open_run(tmp_path / name).checkpoint("last").mixture for name in ("whole", "two", "cut", "again")]
    assert weights == weights[:1] * 4
    assert len({(tmp_path / name / COUNTS_FILE).read_bytes() for name in ("whole", "two", "cut", "again")}) == 1


KILLED = """
import os, signal, sys
from scriven.cli import main
from scriven.kernels.counts import NgramCounter

NgramCounter.finish = lambda counter: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no such signal")
def test_a_kill_while_counting_loses_nothing(text: Path, tmp_path: Path) -> None:
    asked = ["train", str(text), "--steps", "2", "--model.width", "8", "--from", "none", "-o", str(tmp_path / "run")]
    killed = subprocess.run([*PYTHON, "-c", KILLED, *asked], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / COUNTS_FILE).exists()
    whole = trained(text, tmp_path / "whole")
    assert fingerprints(trained(text, tmp_path / "run")) == fingerprints(whole)
    assert (tmp_path / "run" / COUNTS_FILE).read_bytes() == (tmp_path / "whole" / COUNTS_FILE).read_bytes()


def test_sessions_forks_and_batches_of_a_mixture_are_exact(text: Path, tmp_path: Path) -> None:
    trained(text, tmp_path / "run")
    model = load(tmp_path / "run")
    one, other = model.session(seed=1), model.session(seed=1)
    one.read("the cat sat on a m")
    for letter in "the cat sat on a m":
        other.read(letter)
    assert np.array_equal(one.next(), other.next())
    assert abs(one.next().sum() - 1) < 1e-6
    fork, path = one.fork(), tmp_path / "session"
    one.save(path)
    texts = {"".join(each.write(50)) for each in (fork, one, load_session(path), pickle.loads(pickle.dumps(fork)))}
    assert len(texts) == 1
    assert next(iter(model.samples(3, "the cat", length=40, seed=5))) == model.sample("the cat", length=40, seed=5)
    session = model.session()
    parts = [session.score(piece).nats for piece in ("the cat", " sat on", " a mat\n")]
    assert sum(parts) == pytest.approx(model.score("the cat sat on a mat\n").nats, abs=1e-12)
    with pytest.raises(InputError, match="saved with counts"):
        load_session(path, load(tmp_path / "run", counts="none"))


def test_the_order_that_writes_is_a_choice(text: Path, tmp_path: Path) -> None:
    trained(text, tmp_path / "run")
    models = {order: load(tmp_path / "run", write_order=order) for order in (None, 1, 6, 8, 99)}
    written = {order: model.sample("the", length=80, seed=1) for order, model in models.items()}
    assert written[None] == written[6] != written[1]
    assert written[8] == written[99]
    assert len({model.score("a rat ran at noon").nats for model in models.values()}) == 1
    with pytest.raises(UsageError, match="write_order"):
        load(tmp_path / "run", write_order=0)
    with pytest.raises(UsageError, match="counts"):
        load(tmp_path / "run", counts="some")  # type: ignore[arg-type]


def test_without_native_code_the_network_is_alone(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(text, tmp_path / "run")
    alone = load(tmp_path / "run", counts="none", precision="fp32").score("the cat sat").nats
    kernels = native_library.find("off")
    monkeypatch.setattr(native_library, "_native", lambda: kernels)
    assert load(tmp_path / "run", precision="fp32").score("the cat sat").nats == pytest.approx(alone, abs=1e-4)
    trained(text, tmp_path / "other")
    assert not (tmp_path / "other" / COUNTS_FILE).exists()


def test_recipes_of_other_systems_have_no_counts() -> None:
    assert {recipes.values(name)["model"]["counts"] for name in recipes.names()} == {"none"}


def test_a_long_text_is_counted_in_parts(text: Path, tmp_path: Path) -> None:
    trained(text, tmp_path / "run", {"corpus": {"documents": "lines"}})
    for documents in ("run", "stream"):
        if documents == "stream":
            trained(text, tmp_path / "stream")
        corpus = Corpus.open(open_run(tmp_path / documents).corpus_path)
        _, counted = count_text(corpus, validate({"budget": {"minutes": 0.00015}}).budget)
        assert 2000 < counted.characters < 4000
    assert most_counted(validate({"budget": {"minutes": 0.5}}).budget) == 10_000_000
    assert most_counted(validate({"budget": {"steps": 5}}).budget) == 64_000_000


def test_a_long_text_is_counted_with_longer_contexts_where_there_is_time() -> None:
    minute, hours, steps = (
        validate({"budget": each}).budget for each in ({"minutes": 1}, {"minutes": 90}, {"steps": 5})
    )
    assert [most_context(1_000_000, each) for each in (minute, hours, steps, None)] == [8, 8, 8, 8]
    assert [most_context(2_000_000, each) for each in (minute, hours, steps, None)] == [10, 10, 10, 10]
    assert [most_context(15_000_000, each) for each in (minute, hours, steps, None)] == [8, 10, 10, 10]
    assert [most_context(50_000_000, each) for each in (minute, hours, steps, None)] == [8, 8, 8, 8]


def test_longer_contexts_are_kept_in_the_run(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "LONG_FROM", 1)
    trained(text, tmp_path / "run")
    table = open_run(tmp_path / "run").counts()
    assert table is not None
    assert table.longest == mixing.LONG_CONTEXTS
    assert load(tmp_path / "run").score("the cat sat").nats > 0


# --- hostile texts


def count(ids: Ids, symbols: int) -> NgramTable:
    with NgramCounter(symbols, ids.size) as counter:
        counter.count(ids)
        return counter.finish()[0]


HOSTILE = {
    "one symbol": "\n" * 30_000,
    "one line": "the cat sat on the mat\n" * 1500,
    "no order": "".join(map(chr, np.random.default_rng(1).integers(97, 123, 30_000))),
    "many symbols": "".join(map(chr, np.random.default_rng(1).integers(0x4E00, 0x4E00 + 7433, 30_000))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_stay_finite_and_normalised(name: str, tmp_path: Path) -> None:
    (path := tmp_path / "text.txt").write_text(HOSTILE[name])
    events = trained(path, tmp_path / "run")
    assert all(np.isfinite(each.loss.nats) for each in events if isinstance(each, Compared))
    model = load(tmp_path / "run")
    session = model.session(seed=1)
    for _ in range(20):
        assert np.isfinite(session.next()).all()
        assert abs(session.next().sum() - 1) < 1e-6
        "".join(session.write(1))
    network = next(each.loss for each in events if isinstance(each, Evaluated) and each.final)
    corpus = Corpus.open(open_run(tmp_path / "run").corpus_path)
    used = measure("stream", model.predictor, corpus.validation, lanes_at_most=1).loss
    assert used.nats_per_char < network.nats_per_char + 0.002


@pytest.mark.parametrize("validation", [0.0, 500.0])
def test_without_enough_validation_text_the_network_is_alone(validation: float, text: Path, tmp_path: Path) -> None:
    events = trained(text, tmp_path / "run", {"corpus": {"validation": validation}})
    assert isinstance(events[0], Started)
    assert not [event for event in events if isinstance(event, Compared)]
    assert load(tmp_path / "run").predictor.counts is None


def drawn_from(predictor: Predictor, characters: int = 20_000) -> Shelf:
    """A text that a model wrote, which no other model can predict better."""
    rows = predictor.read(predictor.start().rows([0] * 50), np.zeros((1, 50), np.int64))
    uniforms = np.random.default_rng(3).random((characters // 50, 50))
    ids, _ = predictor.generate(rows, SamplingSettings(temperature=1), uniforms)
    shelf = Shelf(ids.T.reshape(-1))
    shelf.documents = 0
    return shelf


def test_counts_that_help_nobody_are_not_used() -> None:
    predictor = small_predictor()
    symbols = predictor.vocabulary.size
    table = count(np.random.default_rng(1).integers(0, symbols, 5000), symbols)  # of noise
    assert fit_mixture(predictor, table, drawn_from(predictor), ("stream", 0)) is None


def test_the_fit_finds_the_weights_of_a_known_mixture() -> None:
    predictor = small_predictor()
    table = count(np.cumsum(np.random.default_rng(2).integers(0, 3, 3000)) % 7, predictor.vocabulary.size)
    true = NgramMixture(table, np.tile([0.3, 0.9], (table.longest + 1, 1)), discount=DISCOUNT)
    fitted = fit_mixture(predictor, table, drawn_from(predictor.with_counts(true)), ("stream", 0))
    assert fitted is not None
    read, _ = fitted.mixtures(table)
    shares = known_shares(table, drawn_from(predictor.with_counts(true)))
    assert shares @ read.weights == pytest.approx((0.3, 0.9), abs=0.1)


def known_shares(table: NgramTable, text: Shelf) -> Float64s:
    """How often the longest known context has each length (longest + 1,)."""
    ids = text.read(0, text.characters)[:, None]
    lengths = table.known_lengths(ids, len(ids), table.longest)
    return np.bincount(lengths[:, 0].astype(np.int64), minlength=table.longest + 1) / len(ids)


def test_known_lengths_are_those_of_contexts_that_occur() -> None:
    random = np.random.default_rng(4)
    text, ids = random.integers(0, 4, 300), random.integers(0, 4, (40, 3))
    table = count(text, 5)
    whole = " ".join(map(str, text[:-1]))  # the last symbol is in no context, since nothing follows it
    for longest in (1, 3, table.longest):
        lengths = table.known_lengths(ids, 12, longest)
        for (t, row), length in np.ndenumerate(lengths):
            before = ids[: len(ids) - 12 + 1 + t, row]
            found = [n for n in range(longest + 1) if " ".join(map(str, before[len(before) - n :])) in whole]
            assert length == max(found)


def test_new_places_of_a_text_get_weights_of_their_own() -> None:
    """The network is right where the counts know nothing, and wrong where they know a long context."""
    predictor = small_predictor()
    table = count(np.cumsum(np.random.default_rng(2).integers(0, 3, 3000)) % 7, predictor.vocabulary.size)
    ends = np.array([[0.9, 0.2], [0.1, 1.0]])
    known = np.arange(table.longest + 1)[:, None] / table.longest
    true = NgramMixture(table, (1 - known) * ends[0] + known * ends[1], discount=DISCOUNT)
    text = drawn_from(predictor.with_counts(true))
    fitted = fit_mixture(predictor, table, text, ("stream", 0))
    assert fitted is not None
    read, _ = fitted.mixtures(table)
    one = np.tile(known_shares(table, text) @ read.weights, (table.longest + 1, 1))
    losses = [
        measure("stream", predictor.with_counts(NgramMixture(table, each, discount=DISCOUNT)), text).loss
        for each in (read.weights, one)
    ]
    assert losses[0].nats_per_char < losses[1].nats_per_char
    assert read.weights[0, 0] > read.weights[-1, 0]
    assert read.weights[0, 1] < read.weights[-1, 1]


@pytest.mark.parametrize(("letters", "order"), [(6, 3), (9, 4), (30, 6)])
def test_short_documents_are_written_after_half_of_their_length(letters: int, order: int, tmp_path: Path) -> None:
    lines = a_tale(2000).splitlines()
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{each[:letters]}\n" for each in lines if len(each) >= letters))
    trained(path, tmp_path / "run", {"corpus": {"documents": "lines"}})
    predictor = load(tmp_path / "run").predictor
    assert predictor.counts and predictor.writing_counts
    assert (predictor.counts.longest > order, predictor.writing_counts.longest) == (True, order)


def test_weights_between_two_orders_lie_between() -> None:
    table = count(np.arange(3000) % 7, 8)
    weights = MixtureWeights(reading=((0.4, 0.8),) * 2, writing=((0.6, 0.5),) * 2, order=6)
    read, write = weights.mixtures(table)
    assert (read.longest, write.longest) == (table.longest, 6)
    assert write.weights[0].tolist() == [0.6, 0.5]
    assert weights.mixtures(table, 7)[1].weights[3].tolist() == pytest.approx([0.5, 0.65])
    assert weights.mixtures(table, 2)[1].weights[3].tolist() == [0.6, 0.5]
    assert ModelSettings().counts == "auto"


def test_weights_are_linear_in_the_length_of_the_known_context() -> None:
    table = count(np.arange(3000) % 7, 8)
    weights = MixtureWeights(reading=((0.2, 0.6), (0.8, 0.2)), writing=((0.2, 0.6), (0.5, 0.3)), order=6)
    read, write = weights.mixtures(table)
    assert read.weights[[0, 4, 8]] == pytest.approx(np.array([[0.2, 0.6], [0.5, 0.4], [0.8, 0.2]]))
    assert write.weights[[0, 2, 6, 8]] == pytest.approx(np.array([[0.2, 0.6], [0.3, 0.5], [0.5, 0.3], [0.5, 0.3]]))
    assert weights.mixtures(table, 3)[1].weights.tolist() == write.weights.tolist()
    assert weights.mixtures(table, 8)[1].weights == pytest.approx(read.weights)


def test_one_pair_of_exponents_of_earlier_versions_is_read() -> None:
    earlier = MixtureWeights.model_validate_json('{"reading": [0.4, 0.8], "writing": [0.6, 0.5], "order": 6}')
    assert earlier == MixtureWeights(reading=((0.4, 0.8),) * 2, writing=((0.6, 0.5),) * 2, order=6)
    assert MixtureWeights.model_validate_json(earlier.model_dump_json()) == earlier
