"""How a recurrent layer's weights begin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scriven.settings import Cell, ModelSettings

# Rows of weights and biases of one gate each, in torch's order: the candidate of every cell is "new".
GATES: dict[Cell, tuple[str, ...]] = {
    "rnn": ("new",),
    "gru": ("reset", "keep", "new"),
    "lstm": ("input", "forget", "new", "output"),
    "mingru": ("update", "new"),
}


@torch.no_grad()
def initialise(rnn: Any, settings: ModelSettings) -> None:
    """Draws the weights of one of torch's modules of one layer, which has drawn its own uniform ones already.

    Recurrent weights are orthogonal per gate, times a scale (Saxe et al. 2014), or normal. Biases are 0 but those of
    gates: `forget_bias` is the LSTM's forget gate's (Jozefowicz et al. 2015: 1), `gate_bias` that of its input and
    output gates and of the GRU's reset gate. The GRU's update gate and an rnn have none.
    """
    gates = GATES[settings.cell]
    if rnn.weight_hh_l0 is not None:
        rnn.bias_hh_l0.zero_()
        rnn.bias_hh_l0.requires_grad = settings.hidden_bias
        for block in rnn.weight_hh_l0.chunk(len(gates)):
            _draw_recurrent(block, settings)
    if settings.input_scale:
        nn.init.normal_(rnn.weight_ih_l0, std=settings.input_scale)
    biases = {"forget": settings.forget_bias, **dict.fromkeys(("input", "output", "reset"), settings.gate_bias)}
    for gate, bias in zip(gates, rnn.bias_ih_l0.chunk(len(gates)), strict=True):
        bias.fill_(biases.get(gate, 0.0))


def _draw_recurrent(block: Tensor, settings: ModelSettings) -> None:
    if settings.initial == "normal":
        nn.init.normal_(block, std=settings.initial_scale)
    else:
        nn.init.orthogonal_(block, gain=settings.initial_scale)
