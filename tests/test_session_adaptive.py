"""Sessions that learn while they read: saved, forked, written from; damaged files."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from scriven import strict_json
from scriven.errors import InputError, UsageError
from scriven.inference import saved_session
from scriven.inference.adaptive import RULE, AdaptiveContext
from scriven.session import Model, Session, load, load_session
from scriven.vocabulary import Vocabulary
from test_session import LETTERS, make_run

TEXT = "a bad cab. abba had a bag\n" * 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_run(tmp_path_factory.mktemp("runs") / "letters", Vocabulary.of(LETTERS)))


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
    assert pickle.loads(pickle.dumps(again)).next().tolist() == again.next().tolist()


def test_a_session_learns_from_what_it_reads(model: Model) -> None:
    static, adapting = model.session(), model.session(adapt=True)
    for session in (static, adapting):
        for piece in (TEXT[:10], TEXT[10:]):
            session.read(piece)
    assert adapting.score(TEXT).nats < static.score(TEXT).nats


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
    weights, square = context.learned.weights, context.learned.square
    ids = torch.from_numpy(context.segment)
    for changes in (
        {"weights": weights[1:]},
        {"weights": weights * float("inf")},
        {"weights": None},
        {"weights": weights.double()},
        {"square": -1 - square},
        {"steps": torch.tensor(0.0)},
        {"steps": torch.ones(2)},
        {"segment": ids.float()},
        {"segment": ids + 100},
        {"segment": torch.zeros(RULE.length + 1, dtype=torch.int64)},
        {"segment": torch.zeros(0, dtype=torch.int64)},
        {"more": weights},
    ):
        (tmp_path / "file").write_bytes(damaged(session, **changes))
        with pytest.raises(InputError, match=r"is not a session|the session is damaged"):
            load_session(tmp_path / "file", model)
    (tmp_path / "file").write_bytes(damaged(session))
    load_session(tmp_path / "file", model)


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
