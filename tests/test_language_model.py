"""The model as a function of ids and state."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scriven.model import CharLM
from scriven.model.language_model import drop, join_rows, parameter_count, take_rows
from scriven.settings import Cell, ModelSettings

V = 11


def made(**chosen: object) -> CharLM:
    torch.manual_seed(0)
    return CharLM(ModelSettings.model_validate({"width": 8, **chosen}), V)


@given(cuts=st.lists(st.integers(1, 29), max_size=4), cell=st.sampled_from(["lstm", "gru", "rnn"]))
@settings(deadline=None, max_examples=20)
@torch.no_grad()
def test_a_text_read_in_any_chunks_gives_the_same(cuts: list[int], cell: Cell) -> None:
    model, ids = made(cell=cell, residual=True, norm="layer").eval(), torch.randint(0, V, (30, 2))
    whole, after_whole = model(ids)
    state, pieces = None, []
    for begin, end in pairwise(sorted({0, 30, *cuts})):
        logits, state = model(ids[begin:end], state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, after_whole, atol=1e-5, rtol=1e-5)


def test_a_fresh_row_forgets_and_the_others_do_not() -> None:
    model, ids = made(layers=3).eval(), torch.randint(0, V, (12, 3))
    before = model(torch.randint(0, V, (5, 3)))[1]
    fresh = torch.zeros(12, 3, dtype=torch.bool)
    fresh[0, 2] = fresh[7, 1] = True
    logits, state = model(ids, before, fresh)
    plain, plain_state = model(ids, before)
    alone, alone_state = model(ids[7:, 1:2])
    torch.testing.assert_close(logits[7:, 1:2], alone)
    torch.testing.assert_close(take_rows(state, torch.tensor([1])), alone_state)
    torch.testing.assert_close(logits[:, 0], plain[:, 0])
    torch.testing.assert_close(logits[:, 2:], model(ids[:, 2:])[0])
    torch.testing.assert_close(take_rows(state, torch.tensor([0])), take_rows(plain_state, torch.tensor([0])))


def test_rows_are_taken_and_joined() -> None:
    state = made().zero_state(3)
    state = tuple(tuple(part + torch.arange(3.0)[:, None] for part in layer) for layer in state)
    parts = [take_rows(state, torch.tensor([0])), take_rows(state, torch.tensor([1, 2]))]
    torch.testing.assert_close(join_rows(parts), state)


def test_unknown_symbols_read_as_the_mean_of_the_known() -> None:
    model = made(layers=1, embedding=4).eval()
    with torch.no_grad():
        model.embedding.weight[-1] = 1e6
    assert model(torch.full((3, 1), V - 1))[0].isfinite().all()
    model.embedding.weight.data[:] = 0.5
    torch.testing.assert_close(model(torch.full((3, 1), V - 1))[0], model(torch.zeros(3, 1, dtype=torch.int64))[0])


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    x = torch.ones(200, 300)
    kept = drop(x, share, torch.Generator().manual_seed(3))
    # 60,000 draws: the share dropped is off by more than 0.01 once in 10^6 runs; the seed makes it always the same.
    assert abs(float((kept == 0).float().mean()) - share) < 0.01
    assert abs(float(kept.mean()) - 1) < 0.02


def test_dropout_is_decided_by_the_seed_alone() -> None:
    model, ids = made(dropout=0.3).train(), torch.randint(0, V, (6, 2))
    torch.manual_seed(1)
    one = model(ids, dropout_seed=5)[0]
    torch.manual_seed(2)
    assert torch.equal(model(ids, dropout_seed=5)[0], one)
    assert not torch.equal(model(ids, dropout_seed=6)[0], one)
    assert torch.equal(model.eval()(ids)[0], model(ids, dropout_seed=9)[0])


def test_parameters_are_counted_without_making_them() -> None:
    chosen = ModelSettings(width=8, norm="rms")
    assert parameter_count(chosen, V) == sum(p.numel() for p in CharLM(chosen, V).parameters())
