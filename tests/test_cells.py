"""Recurrent layers against torch's own and against single steps; gradients against differences."""

import pytest
import torch

from scriven.model.cells import CELLS, RecurrentLayer
from scriven.settings import Cell

ALL: list[Cell] = ["lstm", "gru", "rnn"]


def made(cell: Cell, inputs: int = 5, width: int = 7) -> RecurrentLayer:
    torch.manual_seed(0)
    return RecurrentLayer(cell, inputs, width)


@pytest.mark.parametrize("cell", ALL)
@torch.no_grad()
def test_many_steps_at_once_equal_single_steps(cell: Cell) -> None:
    layer, x = made(cell), torch.randn(20, 3, 5)
    whole, after_whole = layer(x, layer.zero_state(3))
    state, pieces = layer.zero_state(3), []
    for t in range(20):
        y, state = layer(x[t : t + 1], state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces), whole)
    torch.testing.assert_close(state, after_whole)


@pytest.mark.parametrize("cell", ALL)
def test_100_steps_equal_50_twice(cell: Cell) -> None:
    layer, x = made(cell), torch.randn(100, 2, 5)
    whole, after_whole = layer(x, layer.zero_state(2))
    first, state = layer(x[:50], layer.zero_state(2))
    second, state = layer(x[50:], state)
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(state, after_whole)


@pytest.mark.parametrize("cell", ALL)
def test_weights_are_torchs(cell: Cell) -> None:
    layer = made(cell)
    torchs = CELLS[cell][0](5, 7)
    torchs.load_state_dict(layer.rnn.state_dict())
    x = torch.randn(11, 3, 5)
    torch.testing.assert_close(layer(x, layer.zero_state(3))[0], torchs(x)[0])


@pytest.mark.parametrize("cell", ALL)
def test_gradients_are_those_of_small_differences(cell: Cell) -> None:
    layer = made(cell, 3, 4).double()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(layer.state_size))

    def output(x: torch.Tensor, *state: torch.Tensor) -> torch.Tensor:
        inner = tuple(part[None] for part in state)
        y: torch.Tensor = layer.rnn(x, inner if len(inner) > 1 else inner[0])[0]
        return y

    assert torch.autograd.gradcheck(output, (x, *state))


@pytest.mark.parametrize("cell", ALL)
@torch.no_grad()
def test_the_state_has_one_row_a_text(cell: Cell) -> None:
    layer, x = made(cell), torch.randn(9, 4, 5)
    _, together = layer(x, layer.zero_state(4))
    _, alone = layer(x[:, 2:3], layer.zero_state(1))
    assert all(part.shape == (4, 7) for part in together)
    torch.testing.assert_close(tuple(part[2:3] for part in together), alone)


def test_the_forget_gate_begins_open_and_recurrent_weights_orthogonal() -> None:
    layer = made("lstm")
    forget = (layer.rnn.bias_ih_l0 + layer.rnn.bias_hh_l0).chunk(4)[1]
    assert torch.equal(forget, torch.ones(7))
    for block in layer.rnn.weight_hh_l0.chunk(4):
        torch.testing.assert_close(block @ block.T, torch.eye(7), atol=1e-5, rtol=0)
