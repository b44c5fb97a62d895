"""Sessions that learn while they read: saved, forked, written from; damaged files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from scriven import strict_json
from scriven.errors import InputError, UsageError
from scriven.inference import saved_session
from scriven.inference.adaptive_mixture import MixedContext
from scriven.inference.context import RULE, AdaptiveContext
from scriven.inference.saved_session import SavedSession
from scriven.kernels import native_library
from scriven.session import Session
from scriven.trained_model import Model, load, load_session
from scriven.vocabulary import Vocabulary
from small_model import Text, mixture
from test_session import LETTERS, make_run

TEXT = "a bad cab. abba had a bag\n" * 6


def network_model(folder: Path) -> Model:
    return load(make_run(folder / "letters", Vocabulary.of(LETTERS)))


def mixed_model(folder: Path) -> Model:
    """The same model, mixed with the counts of a training text."""
    alone = network_model(folder)
    assert alone.origin is not None
    text = Text(alone.encode("a bag\nhe had a cab. " * 40))
    origin = alone.origin.model_copy(update={"counts": "auto"})
    return Model(mixture(alone.predictor, text), alone.settings, alone.step, alone.run, origin)


@pytest.fixture(scope="module", params=["network", "mixture"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    if request.param == "network":
        return network_model(tmp_path_factory.mktemp("runs"))
    if native_library.library() is None:
        pytest.skip(native_library.why())
    return mixed_model(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("cut", [0, 1, 63, 64, 65, 140])
def test_two_scores_with_a_saved_session_between_are_one_score(model: Model, cut: int, tmp_path: Path) -> None:
    whole = model.score(TEXT, adapt=True)
    session = model.session(adapt=True)
    first = session.score(TEXT[:cut])
    session.save(tmp_path / "session")
    again = load_session(tmp_path / "session", model)
    second = again.score(TEXT[cut:])
    assert first.adaptive and second.adaptive
    assert np.concatenate((first.surprisals, second.surprisals)).tolist() == whole.surprisals.tolist()
    assert session.score(TEXT[cut:]).surprisals.tolist() == second.surprisals.tolist()
    pickled = model.continue_session(SavedSession.from_bytes(Path("pickle"), again._snapshot().to_bytes()))
    assert pickled.next().tolist() == again.next().tolist()


def test_the_repr_of_a_new_session_reads_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    session = model.session(adapt=True)
    monkeypatch.setattr(model.predictor, "training_text", None)
    assert repr(session).endswith("step 3), adaptive)")


def test_forks_continue_on_their_own(model: Model) -> None:
    session = model.session(adapt=True)
    session.read(TEXT[:90])
    forks = [session.fork(), session.fork()]
    forks.append(forks[0].fork())
    whole = model.score(TEXT, adapt=True).surprisals[90:].tolist()
    assert session.score(TEXT[90:]).surprisals.tolist() == whole
    forks[1].read("cab")
    assert [fork.score(TEXT[90:]).surprisals.tolist() for fork in (forks[0], forks[2])] == [whole, whole]


def test_the_next_probabilities_are_those_of_the_score(model: Model) -> None:
    session = model.session(adapt=True)
    for character in "\ufeff" + TEXT[:70]:
        chances = session.next()
        assert chances.sum() == pytest.approx(1, abs=1e-9)
        score = session.score(character)  # a mark at the beginning is none
        if score.characters:
            assert score.nats == pytest.approx(-np.log(chances[model.encode(character)[0]]), abs=1e-5)


def test_a_session_that_wrote_is_saved_and_continued(model: Model, tmp_path: Path) -> None:
    session = model.session(adapt=True, seed=4)
    for _ in range(2):
        session.read(TEXT[:70])
        assert len("".join(session.write(30))) == 30
        assert len(next(session.write(100, piece=5))) == 5
    session.save(tmp_path / "session")
    again = load_session(tmp_path / "session", model)
    assert again.next().tolist() == session.next().tolist()
    assert "".join(again.write(20)) == "".join(session.write(20))
    assert again.score(TEXT).surprisals.tolist() == session.score(TEXT).surprisals.tolist()
    before = session.fork()
    assert list(session.write(0)) == []
    assert session.score("a").nats == before.score("a").nats


def test_a_session_learns_from_what_it_reads(model: Model) -> None:
    static, adapting = model.session(), model.session(adapt=True)
    for session in (static, adapting):
        for piece in (TEXT[:10], TEXT[10:]):
            session.read(piece)
    assert adapting.score(TEXT).nats < static.score(TEXT).nats
    share = 1.0 if model.predictor.counts is None else 0.5  # counts learn much faster
    assert adapting.score(TEXT).nats < share * model.session(adapt=True).score(TEXT).nats


def test_it_writes_with_what_it_learned_and_does_not_learn_from_that(model: Model) -> None:
    session = model.session(adapt=True, seed=3)
    session.read(TEXT)
    copied = session.fork()
    text = "".join(session.write(40))
    pieces = copied.write(40, piece=1)
    first = next(pieces)
    assert text.startswith(first)
    assert text == first + "".join(pieces)
    assert session.next().tolist() == copied.next().tolist()
    assert session.score("a bag").nats == copied.score("a bag").nats


def test_steps_read_like_a_text(model: Model) -> None:
    by_steps, whole = model.session(adapt=True), model.session(adapt=True)
    for symbol in TEXT[:40]:
        step = by_steps.step(symbol)
    whole.read(TEXT[:40])
    assert step.probabilities.tolist() == whole.next().tolist()
    assert step.state[0][0].shape == (16,)


def damaged(session: Session, **changes: torch.Tensor | None) -> bytes:
    """The file of a session with other arrays in place of its own; None for none."""
    saved = session._snapshot()
    data = saved.to_bytes()
    size = int.from_bytes(data[:8], "little")
    arrays = safetensors.torch.load(data)
    for name, value in changes.items():
        arrays.pop(f"learned.{name}", None)
        arrays |= {} if value is None else {f"learned.{name}": value}
    header = strict_json.parse(data[8 : 8 + size].decode())["__metadata__"]
    return safetensors.torch.save(arrays, header)


def test_damaged_files_are_refused(model: Model, tmp_path: Path) -> None:
    session = model.session(adapt=True)
    session.read(TEXT)
    context = session._memory.context
    assert isinstance(context, AdaptiveContext) and context.learned is not None and context.segment is not None
    weights, square = (torch.from_numpy(each) for each in (context.learned.weights, context.learned.square))
    ids, bases = torch.from_numpy(context.segment), torch.from_numpy(context.learned.bases)
    for changes in (
        {"weights": weights[1:]},
        {"weights": weights * float("inf")},
        {"weights": None},
        {"weights": weights.double()},
        {"square": -1 - square},
        {"moments": None},
        {"bases": bases[1:]},
        {"bases": bases * float("nan")},
        {"steps": torch.tensor(0.0)},
        {"steps": torch.ones(2)},
        {"segment": ids.float()},
        {"segment": ids + 100},
        {"segment": torch.zeros(RULE.length + 1, dtype=torch.int64)},
        {"segment": torch.zeros(0, dtype=torch.int64)},
        {"written": -ids},
        {"written": ids[None]},
        {"more": weights},
    ):
        (tmp_path / "file").write_bytes(damaged(session, **changes))
        with pytest.raises(InputError, match=r"is not a session|the session is damaged"):
            load_session(tmp_path / "file", model)
    (tmp_path / "file").write_bytes(damaged(session))
    load_session(tmp_path / "file", model)


@pytest.mark.skipif(native_library.library() is None, reason=native_library.why())
def test_damaged_histories_are_refused(tmp_path: Path) -> None:
    model = mixed_model(tmp_path)
    session = model.session(adapt=True)
    session.read(TEXT)
    list(session.write(3))
    session.read(TEXT)
    context = session._snapshot().context
    assert isinstance(context, MixedContext)
    arrays = context.to_arrays()
    ids, turns = (torch.from_numpy(arrays[f"learned.{name}"]) for name in ("history", "turns"))
    for changes in (
        {"history": -ids},
        {"history": ids + 10_000_000},
        {"history": ids[1:]},
        {"history": ids.float()},
        {"turns": turns[1:]},
        {"turns": turns[:, 0].clone()},
        {"turns": turns * 2},
        {"turns": turns - 1},
        {"turns": None},
    ):
        (tmp_path / "file").write_bytes(damaged(session, **changes))
        with pytest.raises(InputError, match=r"is not a session|the session is damaged"):
            load_session(tmp_path / "file", model)
    (tmp_path / "file").write_bytes(damaged(session, history=None, turns=None))
    with pytest.raises(InputError, match="without the counts that its model is mixed with"):
        load_session(tmp_path / "file", model)
    (tmp_path / "file").write_bytes(damaged(session, history=ids[:1], turns=torch.tensor([[0, 1]])))
    with pytest.raises(InputError, match="it did not learn from what it read"):
        load_session(tmp_path / "file", model).read("a")
    (tmp_path / "file").write_bytes(damaged(session))
    assert load_session(tmp_path / "file", model).score(TEXT).nats == session.score(TEXT).nats


def test_without_native_code_a_mixture_is_not_taken_for_a_network(tmp_path: Path) -> None:
    alone = network_model(tmp_path)
    lacking = Model(alone.predictor.without_counts("never built"), alone.settings)
    for read in (lambda: lacking.score("a", adapt=True), lambda: lacking.session(adapt=True)):
        with pytest.raises(UsageError, match=r"native code alone, and there is none: never built.*--counts none"):
            read()
    assert lacking.score("a").nats == alone.score("a").nats


def test_another_rule_is_refused(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = model.session(adapt=True)
    session.save(tmp_path / "file")
    monkeypatch.setattr(saved_session, "RULE", replace(RULE, rate=1.0))
    with pytest.raises(InputError, match="by another rule"):
        load_session(tmp_path / "file", model)


def test_values_of_other_types_are_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="adapt 'yes': give True or False"):
        model.session(adapt="yes")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="adapt 3: give True or False"):
        model.score("a", adapt=3)  # type: ignore[call-overload]
