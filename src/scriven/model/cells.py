"""Recurrent layers: (x, state) -> (y, state). No layer remembers anything between calls.

A layer's state is a tuple of arrays (N, H): `(h,)` for rnn, gru and mingru, `(h, c)` for lstm.
Weights are named and shaped as in `torch.nn.LSTM`, `GRU` and `RNN` and can be exchanged with them; mingru has those of
the input alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scriven.kernels import recurrent, recurrent_fp32, scan
from scriven.model.initial import GATES, initialise
from scriven.model.recurrence import LayerState, Step, gru_step, lstm_step, recurrence, rnn_step
from scriven.model.stretches import Stretches
from scriven.settings import Cell, ModelSettings


@dataclass(frozen=True)
class CellKind:
    """What a cell is made of."""

    module: Callable[[int, int], Any]  # torch's, whose parameters it types too loosely to be of use
    function: Callable[..., Any]  # all steps as torch's module does them, given the weights
    step: Step | None  # none where nothing is multiplied with the state, and all steps are one scan
    gates: int
    state_size: int  # arrays in the state


class MinGRU(nn.Module):
    """The weights of `scan`: those of its sums k and x, one below the other."""

    weight_hh_l0: None

    def __init__(self, inputs: int, width: int) -> None:
        """Drawn as those of torch's linear layer."""
        super().__init__()
        drawn = nn.Linear(inputs, 2 * width)
        self.weight_ih_l0, self.bias_ih_l0 = drawn.weight, drawn.bias  # (2H, D), (2H,)
        self.register_parameter("weight_hh_l0", None)


CELLS: dict[Cell, CellKind] = {
    "rnn": CellKind(nn.RNN, torch.rnn_tanh, rnn_step, len(GATES["rnn"]), 1),
    "gru": CellKind(nn.GRU, torch.gru, gru_step, len(GATES["gru"]), 1),
    "lstm": CellKind(nn.LSTM, torch.lstm, lstm_step, len(GATES["lstm"]), 2),
    "mingru": CellKind(MinGRU, scan.scan, None, len(GATES["mingru"]), 1),
}


def has_native_code(settings: ModelSettings, precision: str) -> bool:
    """Whether this machine's processor has native code for the steps of all such layers in that number format."""
    able = recurrent.usable() if precision == "bf16" else recurrent_fp32.usable()
    return able and set(settings.activations) == {"tanh"}


class RecurrentLayer(nn.Module):
    """One recurrent layer of any cell: `layer(x (T, N, D), state) -> (y (T, N, H), state)`.

    A one-hot layer reads, in place of x, the columns of its input weights: `layer(columns (T, N, G*H), state)`; they
    are rows of `columns`. So one of V inputs costs no matrix of zeros.
    """

    def __init__(self, settings: ModelSettings, inputs: int, width: int, *, onehot: bool = False) -> None:
        """Weights are drawn as `initialise` says, from torch's global generator; settings have one activation."""
        super().__init__()
        self.settings, self.kind = settings, CELLS[settings.cell]
        self.gates, self.state_size = self.kind.gates, self.kind.state_size
        self.width, self.onehot = width, onehot
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[settings.activation]
        self.torchs = settings.activation == "tanh" and not onehot  # what torch's own function can do
        self.rnn = self.kind.module(inputs, width)
        initialise(self.rnn, settings)

    def native(self, device: torch.device) -> bool:
        """Whether native code does this layer's steps there, in the number format of this moment."""
        if self.kind.step is None:
            return device.type == "cpu" and scan.usable()
        able = has_native_code(self.settings, "bf16" if in_bf16() else "fp32")
        return able and self.rnn.weight_hh_l0.dtype == torch.float32 and device.type == "cpu"

    @property
    def columns(self) -> Tensor:
        """What each of the inputs adds to the sums of all gates (D, G*H)."""
        weight: Tensor = self.rnn.weight_ih_l0
        return weight.T

    def zero_state(self, rows: int) -> LayerState:
        """The state before anything was read: `state_size` arrays of zeros (N, H)."""
        zero = torch.zeros(rows, self.width, device=self.rnn.weight_ih_l0.device)
        return (zero,) * self.state_size

    def forward(
        self,
        x: Tensor,
        state: LayerState,
        weight_hh: Tensor | None = None,
        ids: Tensor | None = None,
        fresh: Tensor | None = None,
    ) -> tuple[Tensor, LayerState]:
        """Read x (T, N, D) from `state` on; gives y (T, N, H) and the state after the last step, in fp32.

        `weight_hh` (G*H, H) stands in for the layer's own recurrent weights, where given. Where fresh (T, N) is true,
        that row's state is zeroed before that step; it may lie on the CPU. One thing only a `native` layer knows: with
        ids (T, N), x (V, D) has a row for each symbol.
        """
        step, weight_hh = self.kind.step, self.rnn.weight_hh_l0 if weight_hh is None else weight_hh
        if step is None:
            return self._by_scan(x, state, ids, fresh)
        if ids is None and fresh is None and x.shape[0] == 1 and not torch.is_grad_enabled():
            state = self._one_step(step, x[0], state, weight_hh)
            return state[0][None], state
        if self.native(x.device):
            return self._by_native(x, state, weight_hh, ids, fresh)
        if self.torchs and (fresh is None or packs(x.device)):
            return self._by_torch(x, state, weight_hh, fresh)
        bias, apart = self.rnn.bias_ih_l0, step is gru_step  # whose reset gate comes between its biases
        from_input = self._from_input(x, bias if apart else bias + self.rnn.bias_hh_l0)
        bias_hh = self.rnn.bias_hh_l0 if apart else None
        return recurrence(step, from_input, weight_hh, bias_hh, state, self.activation, fresh)

    def _by_scan(
        self, x: Tensor, state: LayerState, ids: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, LayerState]:
        bias = self.rnn.bias_ih_l0
        if x.device.type == "cpu" and not self.onehot and in_bf16() and recurrent.usable():
            sums = recurrent.projection(x, self.rnn.weight_ih_l0, bias)
        else:
            sums = self._from_input(x, bias)
        y: Tensor = self.kind.function(sums, state[0], ids=ids, fresh=fresh)
        return y, (y[-1].clone(),)  # else the state would keep all of y alive

    def _by_native(
        self, x: Tensor, state: LayerState, weight_hh: Tensor, ids: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, LayerState]:
        bias, bias_hh = self.rnn.bias_ih_l0, self.rnn.bias_hh_l0
        own = None  # the bias of the GRU's new value that its reset gate multiplies
        if self.kind.step is gru_step:
            bias_hh, own = functional.pad(bias_hh[: -self.width], (0, self.width)), bias_hh[-self.width :]
        bias = bias + bias_hh
        if not in_bf16():
            sums = self._from_input(x, bias)
            return recurrent_fp32.recurrent(self.settings.cell, sums, weight_hh, state, ids=ids, bias=own, fresh=fresh)
        read: dict[str, Tensor] = {}
        if self.onehot:
            sums = self._from_input(x, bias)
        elif ids is not None or own is not None:  # the reset gate multiplies what comes from the state alone
            sums = recurrent.projection(x, self.rnn.weight_ih_l0, bias)
        else:
            sums, read = bias, {"x": x, "weight_x": self.rnn.weight_ih_l0}
        return recurrent.recurrent(self.settings.cell, sums, weight_hh, state, ids=ids, bias=own, fresh=fresh, **read)

    def _by_torch(
        self, x: Tensor, state: LayerState, weight_hh: Tensor, fresh: Tensor | None
    ) -> tuple[Tensor, LayerState]:
        rnn, rows = self.rnn, x.shape[1]
        weights = (rnn.weight_ih_l0, weight_hh, rnn.bias_ih_l0, rnn.bias_hh_l0)
        stretches = None if fresh is None else Stretches.of(fresh, x.device)
        if stretches:
            x, state = stretches.pack(x), stretches.states_before(state)
        inner = tuple(part[None].to(x.dtype) for part in state)  # (1, N, H): torch's layer dimension
        packed = (stretches.sizes,) if stretches else ()
        # With biases, one layer, no dropout, one direction; what is not packed has time first.
        options = (True, 1, 0.0, self.training, False, *(() if packed else (False,)))
        y, *after = self.kind.function(x, *packed, inner if self.state_size > 1 else inner[0], weights, *options)
        state = tuple(part[0].float() for part in after)
        return (stretches.unpack(y, rows), stretches.state_after(state)) if stretches else (y, state)

    def _from_input(self, x: Tensor, bias: Tensor) -> Tensor:
        """What x (..., D) adds to the sums of all gates (..., G*H), with a bias (G*H,)."""
        return x + bias if self.onehot else functional.linear(x, self.rnn.weight_ih_l0, bias)

    def _one_step(self, step: Step, x: Tensor, state: LayerState, weight_hh: Tensor) -> LayerState:
        """One step by hand: torch's modules cost several times more than the mathematics for a single step."""
        from_hidden = functional.linear(state[0], weight_hh, self.rnn.bias_hh_l0)
        return step(self._from_input(x, self.rnn.bias_ih_l0), from_hidden, state, self.activation)


def packs(device: torch.device) -> bool:
    """Whether torch reads packed sequences there faster than a loop over time: on a CPU it takes two to five times as
    long.
    """
    return device.type != "cpu"


def in_bf16() -> bool:
    """Whether the CPU computes in bf16 at this moment."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
