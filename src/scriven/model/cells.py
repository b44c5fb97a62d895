"""Recurrent layers: (x, state) -> (y, state). No layer remembers anything between calls.

A layer's state is a tuple of arrays (N, H): `(h,)` for rnn and gru, `(h, c)` for lstm.
Weights are named and shaped as in `torch.nn.LSTM`, `GRU` and `RNN` and can be exchanged with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scriven.settings import Cell

LayerState = tuple[Tensor, ...]


def rnn_step(from_input: Tensor, from_hidden: Tensor, state: LayerState) -> LayerState:
    """One step of the Elman network: h = tanh(W x + b + U h + c). Arguments (N, H), both sums with their biases."""
    return (torch.tanh(from_input + from_hidden),)


def gru_step(from_input: Tensor, from_hidden: Tensor, state: LayerState) -> LayerState:
    """One step of the GRU (Cho et al. 2014, in torch's form: reset after the product). Arguments (N, 3H)."""
    input_r, input_z, input_n = from_input.chunk(3, 1)
    hidden_r, hidden_z, hidden_n = from_hidden.chunk(3, 1)
    reset = torch.sigmoid(input_r + hidden_r)
    keep = torch.sigmoid(input_z + hidden_z)
    new = torch.tanh(input_n + reset * hidden_n)
    return (new + keep * (state[0] - new),)


def lstm_step(from_input: Tensor, from_hidden: Tensor, state: LayerState) -> LayerState:
    """One step of the LSTM (Hochreiter & Schmidhuber 1997, with forget gate; no peepholes). Arguments (N, 4H)."""
    i, f, g, o = (from_input + from_hidden).chunk(4, 1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return (torch.sigmoid(o) * torch.tanh(c), c)


Step = Callable[[Tensor, Tensor, LayerState], LayerState]
# torch's module (whose parameters it types too loosely to be of use), the step, gates, arrays in the state
CELLS: dict[Cell, tuple[Callable[[int, int], Any], Step, int, int]] = {
    "rnn": (nn.RNN, rnn_step, 1, 1),
    "gru": (nn.GRU, gru_step, 3, 1),
    "lstm": (nn.LSTM, lstm_step, 4, 2),
}


class RecurrentLayer(nn.Module):
    """One recurrent layer of any cell: `layer(x (T, N, D), state) -> (y (T, N, H), state)`."""

    def __init__(self, cell: Cell, inputs: int, width: int) -> None:
        """Input weights as in torch; recurrent weights orthogonal per gate; biases 0, the LSTM's forget gate's 1."""
        super().__init__()
        module, self._step, self.gates, self.state_size = CELLS[cell]
        self.width = width
        self.rnn = module(inputs, width)
        with torch.no_grad():
            for block in self.rnn.weight_hh_l0.chunk(self.gates):
                nn.init.orthogonal_(block)
            self.rnn.bias_ih_l0.zero_()
            self.rnn.bias_hh_l0.zero_()
            if cell == "lstm":
                self.rnn.bias_ih_l0.chunk(4)[1].fill_(1)

    def zero_state(self, rows: int) -> LayerState:
        """The state before anything was read: `state_size` arrays of zeros (N, H)."""
        zero = torch.zeros(rows, self.width, device=self.rnn.weight_hh_l0.device)
        return (zero,) * self.state_size

    def forward(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Read x (T, N, D) from `state` on; gives y (T, N, H) and the state after the last step, in fp32."""
        if x.shape[0] == 1 and not torch.is_grad_enabled():
            state = self._one_step(x[0], state)
            return state[0][None], state
        inner = tuple(part[None].to(x.dtype) for part in state)  # (1, N, H): torch's layer dimension
        y, inner_after = self.rnn(x, inner if self.state_size > 1 else inner[0])
        after = inner_after if self.state_size > 1 else (inner_after,)
        return y, tuple(part[0].float() for part in after)

    def _one_step(self, x: Tensor, state: LayerState) -> LayerState:
        """One step by hand: torch's modules cost several times more than the mathematics for a single step."""
        rnn = self.rnn
        from_input = functional.linear(x, rnn.weight_ih_l0, rnn.bias_ih_l0)
        from_hidden = functional.linear(state[0], rnn.weight_hh_l0, rnn.bias_hh_l0)
        return self._step(from_input, from_hidden, state)
