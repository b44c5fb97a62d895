"""What is dropped: the share, the places, and that the seed alone decides."""

import pytest
import torch

from scriven.model.cells import Masks, drop

ONES = torch.ones(40, 30, 50)


def masks(seed: int = 1, *, on: bool = True, variational: bool = False) -> Masks:
    return Masks(seed, torch.device("cpu"), on=on, variational=variational)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9999])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    kept = drop(torch.ones(200, 300), share, torch.Generator().manual_seed(3))
    # 60,000 draws: the share dropped is off by more than 0.01 once in 10^6 runs; the seed makes it always the same.
    assert abs(float((kept == 0).float().mean()) - min(share, 255 / 256)) < 0.01
    assert abs(float(kept.mean()) - 1) < 0.2


def drop_everywhere(each: Masks) -> list[torch.Tensor]:
    """ONES after every kind of dropout."""
    ids = torch.arange(40 * 30).view(40, 30) % 9
    dropped = [each.drop(ONES, 0.5, 0), each.drop_weight(ONES[0], 0.5, 0)]
    return [*dropped, each.drop_symbols(ONES, ids, 9, 0.5), each.drop_onehot(ONES, ids, 9, 0.5)]


@pytest.mark.parametrize("variational", [False, True])
def test_everything_is_decided_by_the_seed(variational: bool) -> None:
    one, same, other = (drop_everywhere(masks(seed, variational=variational)) for seed in (1, 1, 2))
    assert all(map(torch.equal, one, same))
    assert not any(map(torch.equal, one, other))


def values(x: torch.Tensor) -> set[float]:
    return set(x.flatten().tolist())


def test_nothing_is_dropped_where_it_is_off() -> None:
    ids = torch.zeros(40, 30, dtype=torch.int64)
    for each, share in ((masks(on=False), 0.5), (masks(), 0.0)):
        assert each.drop(ONES, share, 0) is ONES
        assert each.drop_weight(ONES, share, 0) is ONES
        assert each.drop_symbols(ONES, ids, 9, share) is ONES
        assert each.drop_onehot(ONES, ids, 9, share) is ONES


def test_a_variational_mask_is_the_same_for_all_characters_and_another_one_in_another_place() -> None:
    each = masks(variational=True)
    first = each.drop(ONES, 0.5, 0)
    assert torch.equal(first, first[:1].expand_as(first))
    assert torch.equal(each.drop(ONES[:7], 0.5, 0), first[:7])  # the next piece of the same chunk
    assert not torch.equal(each.drop(ONES, 0.5, 1), first)
    assert not torch.equal(masks().drop(ONES, 0.5, 0)[0], masks().drop(ONES, 0.5, 0)[1])


def test_recurrent_weights_are_dropped_once_in_a_call() -> None:
    each, weight = masks(), torch.ones(28, 7)
    dropped = each.drop_weight(weight, 0.5, 0)
    assert values(dropped) == {0.0, 2.0}
    assert torch.equal(each.drop_weight(weight, 0.5, 0), dropped)
    assert not torch.equal(each.drop_weight(weight, 0.5, 1), dropped)


def test_a_symbol_is_dropped_wherever_it_stands() -> None:
    ids = torch.randint(0, 9, (40, 30))
    dropped = masks().drop_symbols(ONES, ids, 9, 0.5)
    for symbol in range(9):
        assert len(values(dropped[ids == symbol])) == 1
    assert values(dropped) == {0.0, 2.0}


@pytest.mark.parametrize("variational", [False, True])
def test_a_one_hot_value_is_dropped_whole(variational: bool) -> None:
    ids = torch.randint(0, 9, (40, 30))
    dropped = masks(variational=variational).drop_onehot(ONES, ids, 9, 0.5)
    assert torch.equal(dropped, dropped[..., :1].expand_as(dropped))
    assert values(dropped) == {0.0, 2.0}
    for row in range(30):  # variational: a row drops the same symbols at all times
        for symbol in range(9):
            assert not variational or len(values(dropped[ids[:, row] == symbol, row])) <= 1
