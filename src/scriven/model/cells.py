"""Recurrent layers: (x, state) -> (y, state). No layer remembers anything between calls.

A layer's state is a tuple of arrays (N, H): `(h,)` for rnn, gru and mingru, `(h, c)` for lstm.
Weights are named and shaped as in `torch.nn.LSTM`, `GRU` and `RNN` and can be exchanged with them; mingru has those of
the input alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scriven.kernels import recurrent, recurrent_fp32, scan
from scriven.model.reference_cells import LayerState, Step, gru_step, lstm_step, recurrence, rnn_step
from scriven.model.stretches import Stretches
from scriven.settings import Cell, ModelSettings


class Masks:
    """What is dropped in one call of the model: drawn in the order in which it is asked for, nothing where all is off.

    What is asked for again at the same place, as the next piece of a chunk does, keeps its mask where that is one for
    the whole chunk.
    """

    def __init__(self, seed: int, device: torch.device, *, on: bool, variational: bool) -> None:
        """With `variational`, one mask (N, D) of a place serves all characters (Gal & Ghahramani 2016)."""
        self._seed, self._device = seed, device
        self._on, self._variational = on, variational
        self._kept: dict[object, Tensor] = {}

    def drop(self, x: Tensor, share: float, place: object) -> Tensor:
        """x (T, N, D) with a share of its values zeroed and the others scaled up."""
        if not (self._on and share):
            return x
        if self._variational:
            return x * self._once(place, x.shape[1:], share).to(x.dtype)
        return drop(x, share, self._generator)

    def drop_weight(self, weight: Tensor, share: float, layer: int) -> Tensor:
        """A layer's weight with a share of its values dropped (DropConnect, Wan et al. 2013; AWD-LSTM's WeightDrop)."""
        return weight * self._once(("weight", layer), weight.shape, share) if self._on and share else weight

    def drop_symbols(self, x: Tensor, ids: Tensor, size: int, share: float) -> Tensor:
        """The embeddings x (T, N, D) of ids (T, N), a share of the V symbols dropped whole (AWD-LSTM)."""
        if not (self._on and share):
            return x
        return x * self._once("symbols", torch.Size((size,)), share)[ids][..., None]

    def drop_onehot(self, x: Tensor, ids: Tensor, size: int, share: float) -> Tensor:
        """What the one-hot values (T, N, V) of ids (T, N) were looked up as, x (T, N, D), had they been dropped."""
        if not (self._on and share):
            return x
        if self._variational:
            kept = self._once("input", torch.Size((ids.shape[1], size)), share).gather(1, ids.T).T  # (T, N)
        else:
            kept = mask(ids.shape, share, self._generator)
        return x * kept[..., None]

    @cached_property
    def _generator(self) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(self._seed)

    def _once(self, place: object, shape: torch.Size, share: float) -> Tensor:
        """The one mask of a place."""
        if place not in self._kept:
            self._kept[place] = mask(shape, share, self._generator)
        return self._kept[place]


def mask(shape: torch.Size, share: float, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """What values are multiplied by: a share of them, in steps of 1/256, by 0, the others so that the mean stays.

    One random byte decides a value: eight times cheaper on a CPU than one draw a value.
    """
    limit = min(round(share * 256), 255)
    words = torch.empty((shape.numel() + 7) // 8, dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    keep = words.view(torch.uint8)[: shape.numel()].view(shape) >= limit
    return keep.to(dtype).mul_(256 / (256 - limit))


def drop(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Inverted dropout (Srivastava et al. 2014): a share of x's values zeroed, the others scaled up; see `mask`."""
    return x * mask(x.shape, share, generator, x.dtype)


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
        able = has_native_code(self.settings, "bf16" if autocasts_to_bf16() else "fp32")
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
        if x.device.type == "cpu" and not self.onehot and autocasts_to_bf16() and recurrent.usable():
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
        if not autocasts_to_bf16():
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


def autocasts_to_bf16() -> bool:
    """Whether the CPU computes in bf16 at this moment."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
