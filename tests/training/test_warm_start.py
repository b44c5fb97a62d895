"""How recurrent weights and biases begin."""

import pytest
import torch
from torch import nn

from scriven.model.cells import RecurrentLayer
from scriven.model.shapes import GATES
from scriven.settings import Cell, ModelSettings


def make_layer(width: int = 7, **chosen: object) -> RecurrentLayer:
    torch.manual_seed(0)
    return RecurrentLayer(ModelSettings.model_validate(chosen), 5, width)


def biases(layer: RecurrentLayer, cell: Cell) -> dict[str, float]:
    """The one value that each gate's biases have, both together."""
    parts = (layer.rnn.bias_ih_l0 + layer.rnn.bias_hh_l0).chunk(layer.gates)
    assert all(len(set(part.tolist())) == 1 for part in parts)
    return {gate: part[0].item() for gate, part in zip(GATES[cell], parts, strict=True)}


def test_the_forget_gate_begins_open_and_recurrent_weights_orthogonal() -> None:
    layer = make_layer()
    assert biases(layer, "lstm") == {"input": 0, "forget": 1, "new": 0, "output": 0}
    for block in layer.rnn.weight_hh_l0.chunk(4):
        torch.testing.assert_close(block @ block.T, torch.eye(7), atol=1e-5, rtol=0)


def test_gates_begin_with_the_biases_given() -> None:
    chosen = {"forget_bias": 3, "gate_bias": -2}
    assert biases(make_layer(**chosen), "lstm") == {"input": -2, "forget": 3, "new": 0, "output": -2}
    assert biases(make_layer(cell="gru", **chosen), "gru") == {"reset": -2, "keep": 0, "new": 0}
    assert biases(make_layer(cell="rnn", **chosen), "rnn") == {"new": 0}


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_scale_multiplies_orthogonal_weights(cell: Cell) -> None:
    for block in make_layer(cell=cell, initial_scale=0.5).rnn.weight_hh_l0.chunk(len(GATES[cell])):
        torch.testing.assert_close(block @ block.T, torch.eye(7) / 4, atol=1e-5, rtol=0)


def test_normal_weights_have_the_standard_deviation_given() -> None:
    layer = make_layer(64, initial="normal", initial_scale=0.02, input_scale=0.3)
    # Of 16,384 and 1,280 draws: a deviation this far off comes once in 10^6 seeds at most.
    assert layer.rnn.weight_hh_l0.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.rnn.weight_ih_l0.std().item() == pytest.approx(0.3, rel=0.12)


def test_input_weights_are_torchs_where_no_scale_is_given() -> None:
    layer = make_layer()
    torch.manual_seed(0)
    assert torch.equal(layer.rnn.weight_ih_l0, dict(nn.LSTM(5, 7).named_parameters())["weight_ih_l0"])
