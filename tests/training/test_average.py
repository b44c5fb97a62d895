"""Averaging begins when the loss stops falling, and is the plain mean of all weights from there on."""

import torch

from scriven.training.optimizer import Average


def test_the_mean_begins_when_no_loss_was_better_for_a_while() -> None:
    average = Average(patience=2)
    begun = []
    for loss in (3.0, 2.0, 1.0, 1.5, 1.2, 1.1):
        average.note(loss, torch.zeros(3))
        begun.append(average.mean is not None)
    assert begun == [False] * 5 + [True]  # 1.1 is worse than 1.0, which is older than the last two


def test_the_mean_is_that_of_all_weights_since() -> None:
    average = Average(patience=1)
    average.add(torch.full((2,), 99.0))  # before it began: not counted
    average.note(1.0, torch.zeros(2))
    average.note(1.0, torch.zeros(2))
    weights = torch.tensor([[1.0, 5.0], [2.0, 7.0], [6.0, 0.0], [3.0, 4.0]])
    average.note(2.0, weights[0])
    for values in weights[1:]:
        average.add(values)
    assert average.mean is not None
    torch.testing.assert_close(average.mean, weights.mean(0))


def test_state_put_back_goes_on_the_same_way() -> None:
    one, other = Average(patience=1), Average(patience=1)
    for loss in (1.0, 1.0, 2.0):
        one.note(loss, torch.ones(4))
    one.add(torch.full((4,), 0.3))
    other.restore({name: value.clone() for name, value in one.state().items()}, torch.zeros(4))
    for average in (one, other):
        average.add(torch.full((4,), 0.7))
    assert one.mean is not None and other.mean is not None
    assert torch.equal(one.mean, other.mean)
    fresh = Average(patience=1)
    fresh.restore(Average(patience=1).state(), torch.zeros(4))
    assert fresh.mean is None
