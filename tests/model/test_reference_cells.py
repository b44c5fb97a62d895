"""The LSTM's gradients by hand against autograd's over the plain loop, and against small differences."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scriven.model.reference_cells import gru_step, lstm_step, recurrence, rnn_step

T, N, H = 7, 3, 4


def arguments(gates: int, arrays: int) -> list[Tensor]:
    """from_input, weight_hh, bias_hh and the state, in double precision."""
    torch.manual_seed(0)
    shapes = [(T, N, gates * H), (gates * H, H), (gates * H,), *[(N, H)] * arrays]
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


def plain(from_input: Tensor, weight: Tensor, bias: Tensor, h: Tensor, c: Tensor, relu: bool) -> tuple[Tensor, Tensor]:
    pieces = []
    for sums in from_input:
        h, c = lstm_step(sums, functional.linear(h, weight, bias), (h, c), torch.relu if relu else torch.tanh)
        pieces.append(h)
    return torch.stack(pieces), c


def by_hand(
    from_input: Tensor, weight: Tensor, bias: Tensor, h: Tensor, c: Tensor, relu: bool
) -> tuple[Tensor, Tensor]:
    y, state = recurrence(lstm_step, from_input, weight, bias, (h, c), torch.relu if relu else torch.tanh)
    torch.testing.assert_close(state[0], y[-1])
    return y, state[1]


@pytest.mark.parametrize("relu", [False, True])
def test_an_lstm_by_hand_equals_the_plain_loop_and_so_do_its_gradients(relu: bool) -> None:
    given = arguments(4, 2)
    weights = torch.randn(T, N, H, dtype=torch.float64), torch.randn(N, H, dtype=torch.float64)
    outputs, gradients = [], []
    for way in (plain, by_hand):
        y, c = way(given[0], given[1], given[2], given[3], given[4], relu)
        outputs.append((y, c))
        gradients.append(torch.autograd.grad((y * weights[0]).sum() + (c * weights[1]).sum(), given))
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("relu", [False, True])
def test_gradients_of_an_lstm_by_hand_are_those_of_small_differences(relu: bool) -> None:
    assert torch.autograd.gradcheck(partial(by_hand, relu=relu), arguments(4, 2))


@pytest.mark.parametrize(("step", "gates"), [(rnn_step, 1), (gru_step, 3)])
def test_gradients_of_the_plain_loop_are_those_of_small_differences(step: object, gates: int) -> None:
    def outputs(x: Tensor, weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
        return recurrence(step, x, weight, bias, (h,), torch.relu)[0]  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(outputs, arguments(gates, 1))


def test_a_bias_may_be_in_the_input_already() -> None:
    from_input, weight, bias, h, c = arguments(4, 2)
    torch.testing.assert_close(
        recurrence(lstm_step, from_input + bias, weight, None, (h, c)),
        recurrence(lstm_step, from_input, weight, bias, (h, c)),
    )


def test_an_output_that_is_not_used_has_no_gradient_to_give() -> None:
    given = arguments(4, 2)
    y, _ = by_hand(given[0], given[1], given[2], given[3], given[4], False)
    torch.autograd.backward(y[2].sum())  # the last c is not used, nor what follows the third character
    gradient = given[0].grad
    assert gradient is not None and gradient[:3].abs().min() > 0 and not gradient[3:].any()
