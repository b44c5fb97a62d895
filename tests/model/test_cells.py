"""Recurrent layers against torch's own and against single steps; gradients against differences."""

from typing import Any

import pytest
import torch

from scriven.kernels import recurrent
from scriven.model.backends import current_backend
from scriven.model.cells import CELLS, RecurrentLayer
from scriven.model.reference_cells import LayerState
from scriven.settings import Cell, ModelSettings

TORCHS: list[Cell] = ["lstm", "gru", "rnn"]
ALL: list[Cell] = [*TORCHS, "mingru"]


def make_layer(
    cell: Cell, inputs: int = 5, width: int = 7, *, onehot: bool = False, **chosen: object
) -> RecurrentLayer:
    torch.manual_seed(0)
    read = {"input": "onehot" if onehot else "embedding"}
    return RecurrentLayer(ModelSettings.model_validate({"cell": cell, **read, **chosen}), inputs, width)


def call(layer: RecurrentLayer, x: torch.Tensor, state: LayerState, **more: torch.Tensor) -> Any:
    """The output and the state after it, computed by what is chosen for the layer as torch is set now."""
    return layer(x, state, current_backend(layer.settings, x), **more)


def assert_near(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    """Equal but for rounding, which grows with the largest values where relu lets them grow."""
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


def read(layer: RecurrentLayer, x: torch.Tensor, state: LayerState) -> tuple[torch.Tensor, LayerState]:
    """The slow, obvious way: one character at a time."""
    pieces = []
    with torch.no_grad():
        for t in range(len(x)):
            y, state = call(layer, x[t : t + 1], state)
            pieces.append(y)
    return torch.cat(pieces), state


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("onehot", [False, True])
@pytest.mark.parametrize("cell", ALL)
def test_many_steps_at_once_equal_single_steps(cell: Cell, onehot: bool, activation: str) -> None:
    layer = make_layer(cell, onehot=onehot, activation=activation)
    x = layer.columns[torch.randint(0, 5, (20, 3))].detach() if onehot else torch.randn(20, 3, 5)
    state = tuple(torch.rand(3, 7) for _ in range(layer.state_size))
    (y, after), (single, after_single) = call(layer, x, state), read(layer, x, state)
    assert_near((y, *after), (single, *after_single))


@pytest.mark.parametrize("cell", ALL)
def test_100_steps_equal_50_twice(cell: Cell) -> None:
    layer, x = make_layer(cell), torch.randn(100, 2, 5)
    whole, after_whole = call(layer, x, layer.zero_state(2))
    first, state = call(layer, x[:50], layer.zero_state(2))
    second, state = call(layer, x[50:], state)
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(state, after_whole)


@pytest.mark.parametrize("cell", TORCHS)
def test_weights_are_torchs(cell: Cell) -> None:
    layer = make_layer(cell)
    torchs = CELLS[cell].module(5, 7)
    torchs.load_state_dict(layer.rnn.state_dict())
    x = torch.randn(11, 3, 5)
    torch.testing.assert_close(call(layer, x, layer.zero_state(3))[0], torchs(x)[0])


@pytest.mark.parametrize("cell", TORCHS)
def test_gradients_are_those_of_small_differences(cell: Cell) -> None:
    layer = make_layer(cell, 3, 4).double()
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
    layer, x = make_layer(cell), torch.randn(9, 4, 5)
    _, together = call(layer, x, layer.zero_state(4))
    _, alone = call(layer, x[:, 2:3], layer.zero_state(1))
    assert all(part.shape == (4, 7) for part in together)
    torch.testing.assert_close(tuple(part[2:3] for part in together), alone)


@pytest.mark.parametrize("cell", TORCHS)
def test_a_one_hot_layer_is_torchs_that_reads_one_hot_vectors(cell: Cell) -> None:
    layer, ids = make_layer(cell, onehot=True), torch.randint(0, 5, (11, 3))
    torchs = CELLS[cell].module(5, 7)
    torchs.load_state_dict(layer.rnn.state_dict())
    torch.testing.assert_close(
        call(layer, layer.columns[ids], layer.zero_state(3))[0], torchs(torch.nn.functional.one_hot(ids, 5).float())[0]
    )


@pytest.mark.parametrize("onehot", [False, True])
def test_a_mingru_is_its_formula(onehot: bool) -> None:
    layer, ids, h = make_layer("mingru", onehot=onehot), torch.randint(0, 5, (11, 3)), torch.rand(3, 7)
    x = torch.nn.functional.one_hot(ids, 5).float()
    y, (after,) = call(layer, layer.columns[ids] if onehot else x, (h,))
    for t in range(11):
        k, new = (x[t] @ layer.rnn.weight_ih_l0.T + layer.rnn.bias_ih_l0).chunk(2, 1)
        z = torch.sigmoid(k)
        h = (1 - z) * h + z * torch.where(new >= 0, new + 0.5, torch.sigmoid(new))
        torch.testing.assert_close(y[t], h)
    assert torch.equal(after, y[-1])


def test_a_mingru_has_no_recurrent_weights() -> None:
    layer = make_layer("mingru")
    assert {name: tuple(weight.shape) for name, weight in layer.named_parameters()} == {
        "rnn.weight_ih_l0": (14, 5),
        "rnn.bias_ih_l0": (14,),
    }


def test_an_rnn_of_rectifiers_is_torchs() -> None:
    layer, x = make_layer("rnn", activation="relu"), torch.randn(11, 3, 5)
    torchs = torch.nn.RNN(5, 7, nonlinearity="relu")
    torchs.load_state_dict(layer.rnn.state_dict())
    assert_near((call(layer, x, layer.zero_state(3))[0],), (torchs(x)[0],))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("cell", TORCHS)
def test_other_recurrent_weights_stand_in_and_get_the_gradient(cell: Cell, activation: str) -> None:
    layer, x = make_layer(cell, activation=activation), torch.randn(6, 2, 5)
    other = torch.randn_like(layer.rnn.weight_hh_l0).requires_grad_()
    y, _ = call(layer, x, layer.zero_state(2), weight_hh=other)
    y.sum().backward()
    layer.rnn.weight_hh_l0.data.copy_(other)
    assert_near((y,), (call(layer, x, layer.zero_state(2))[0],))
    assert other.grad is not None and layer.rnn.weight_hh_l0.grad is None


@pytest.mark.parametrize("onehot", [False, True])
@pytest.mark.parametrize("cell", ALL)
def test_in_bf16_the_state_stays_fp32_and_nearly_the_same(cell: Cell, onehot: bool) -> None:
    rounded = cell != "mingru" and recurrent.usable(torch.bfloat16)  # as torch's own layers do
    layer = make_layer(cell, onehot=onehot, activation="relu")
    x = layer.columns[torch.randint(0, 5, (9, 3))].detach() if onehot else torch.randn(9, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = call(layer, x, layer.zero_state(3))
    y.sum().backward()
    assert y.dtype == (torch.bfloat16 if rounded else torch.float32)
    assert all(part.dtype == torch.float32 for part in state)
    weight = layer.rnn.bias_ih_l0 if cell == "mingru" else layer.rnn.weight_hh_l0
    assert weight.grad.isfinite().all()
    exact = call(layer, x, layer.zero_state(3))[0]
    assert (y - exact).norm() <= 0.05 * exact.norm()  # a bf16 has 8 bits; relu lets what it lacks add up
