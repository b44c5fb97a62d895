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

from scriven.kernels import recurrent, scan
from scriven.model.backends import Backend
from scriven.model.reference_cells import (
    LayerState,
    RegisteredLayer,
    Step,
    gru_step,
    lstm_step,
    recurrence,
    rnn_step,
)
from scriven.model.shapes import GATES
from scriven.settings import ModelSettings


class Masks:
    """The dropout masks of one call of the model, drawn in the order of their use. Off in evaluation.

    With variational dropout, a place keeps its mask when it is used again, as by the next piece of a chunk.
    """

    def __init__(self, seed: int, device: torch.device, *, on: bool, variational: bool) -> None:
        """With `variational`, the one mask (N, D) of a place serves all characters (Gal & Ghahramani 2016)."""
        self._seed, self._device = seed, device
        self._on, self._variational = on, variational
        self._kept: dict[object, Tensor] = {}

    def drop(self, x: Tensor, share: float, place: object) -> Tensor:
        """Zeroes a share of the values of x (T, N, D), and scales the others up."""
        if not (self._on and share):
            return x
        if self._variational:
            return x * self._once(place, x.shape[1:], share).to(x.dtype)
        return drop(x, share, self._generator)

    def drop_weight(self, weight: Tensor, share: float, layer: int) -> Tensor:
        """Drops a share of a layer's weight (DropConnect, Wan et al. 2013; WeightDrop in AWD-LSTM)."""
        return weight * self._once(("weight", layer), weight.shape, share) if self._on and share else weight

    def drop_symbols(self, x: Tensor, ids: Tensor | slice, size: int, share: float) -> Tensor:
        """Drops the embeddings of a share of the V symbols (AWD-LSTM), in those of ids (T, N) or of a slice of symbols.

        They are x (T, N, D), or (V, D).
        """
        if not (self._on and share):
            return x
        return x * self._once("symbols", torch.Size((size,)), share)[ids][..., None]

    def drop_onehot(self, x: Tensor, ids: Tensor, size: int, share: float) -> Tensor:
        """Applies dropout of the one-hot input (T, N, V) of ids (T, N) to the columns x (T, N, D) looked up for it."""
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
        """The mask of a place, drawn at its first use."""
        if place not in self._kept:
            self._kept[place] = mask(shape, share, self._generator)
        return self._kept[place]


def mask(shape: torch.Size, share: float, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """A dropout mask: a share of its values, in steps of 1/256, is 0; the others are such that the mean is 1.

    One random byte decides each value. On a CPU that is eight times faster than drawing a number for each.
    """
    limit = min(round(share * 256), 255)
    words = torch.empty((shape.numel() + 7) // 8, dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    keep = words.view(torch.uint8)[: shape.numel()].view(shape) >= limit
    return keep.to(dtype).mul_(256 / (256 - limit))


def drop(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Inverted dropout (Srivastava et al. 2014): zeroes a share of x's values and scales the others up; see `mask`."""
    return x * mask(x.shape, share, generator, x.dtype)


@torch.no_grad()
def initialise(rnn: Any, settings: ModelSettings) -> None:
    """Draws new weights for a torch module of one layer, in place of the uniform ones that torch has drawn.

    Recurrent weights are orthogonal per gate, times a scale (Saxe et al. 2014), or normal. Biases are 0, except for two
    settings: `forget_bias` is for the LSTM's forget gate (Jozefowicz et al. 2015 use 1), and `gate_bias` is for its
    input and output gates and for the GRU's reset gate.
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
    """The torch module, the functions and the sizes of a cell."""

    module: Callable[[int, int], Any]  # a torch module; torch types its parameters too loosely to be of use
    function: Callable[..., Any]  # computes all steps like torch's module, given the weights
    step: Step | None  # None when no product involves the state, so that all steps are one scan
    gates: int
    state_size: int  # arrays in the state


class MinGRU(nn.Module):
    """The weights of `scan`: those of its sums k and x, stacked."""

    weight_hh_l0: None

    def __init__(self, inputs: int, width: int) -> None:
        """Draws the weights like torch's linear layer."""
        super().__init__()
        drawn = nn.Linear(inputs, 2 * width)
        self.weight_ih_l0, self.bias_ih_l0 = drawn.weight, drawn.bias  # (2H, D), (2H,)
        self.register_parameter("weight_hh_l0", None)


CELLS: dict[str, CellKind] = {
    "rnn": CellKind(nn.RNN, torch.rnn_tanh, rnn_step, len(GATES["rnn"]), 1),
    "gru": CellKind(nn.GRU, torch.gru, gru_step, len(GATES["gru"]), 1),
    "lstm": CellKind(nn.LSTM, torch.lstm, lstm_step, len(GATES["lstm"]), 2),
    "mingru": CellKind(MinGRU, scan.scan, None, len(GATES["mingru"]), 1),
}


class RecurrentLayer(nn.Module):
    """One recurrent layer of any cell: `layer(x (T, N, D), state, backend) -> (y (T, N, H), state)`.

    A one-hot layer reads columns of its input weights in place of x: `layer(columns (T, N, G*H), state, backend)`. They
    are rows of `columns`. So a one-hot input needs no matrix of zeros.
    """

    def __init__(self, settings: ModelSettings, inputs: int, width: int, depth: int = 0) -> None:
        """Draws the weights by `initialise`, from torch's global generator. The settings are those of the whole model.

        The first layer has the `depth` 0; with model.input onehot it alone is one-hot.
        """
        super().__init__()
        self.settings, self.kind = settings, CELLS[settings.cell]
        self.gates, self.state_size = self.kind.gates, self.kind.state_size
        self.width, self.depth, self.onehot = width, depth, settings.input == "onehot" and depth == 0
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[settings.activations[depth]]
        self.rnn = self.kind.module(inputs, width)
        initialise(self.rnn, settings)

    @property
    def recurrent_weight(self) -> Tensor | None:
        """The recurrent weights (G*H, H); a mingru has none."""
        weight: Tensor | None = self.rnn.weight_hh_l0
        return weight

    @property
    def matrices(self) -> list[Tensor]:
        """The weights of two dimensions, except those whose columns a one-hot input looks up."""
        columns = self.rnn.weight_ih_l0 if self.onehot else None
        return [each for each in self.parameters() if each.ndim == 2 and each is not columns]

    @property
    def columns(self) -> Tensor:
        """What each input adds to the sums of all gates, (D, G*H)."""
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
        backend: Backend,
        *,
        weight_hh: Tensor | None = None,
        ids: Tensor | None = None,
        fresh: Tensor | None = None,
    ) -> tuple[Tensor, LayerState]:
        """Reads x (T, N, D) from `state` on. Returns y (T, N, H) and the state after the last step, in fp32.

        It computes by the route of the `backend` for its depth, in `backend.context()`. `weight_hh` (G*H, H) replaces
        the layer's own recurrent weights. Where `fresh` (T, N) is true, the state of that row is zeroed before that
        step; it may be on the CPU. With ids (T, N), which the backend must take, x (V, D) has a row for each symbol.
        """
        step, weight_hh = self.kind.step, self.rnn.weight_hh_l0 if weight_hh is None else weight_hh
        if step is None:
            return self._by_scan(x, state, backend, ids, fresh)
        if backend.single_steps and ids is None and fresh is None and len(x) == 1:
            state = self._one_step(step, x[0], state, weight_hh)
            return state[0][None], state
        route = backend.routes[self.depth]
        if route == "torch" and fresh is not None:
            route = backend.fresh_route
        if route == "native":
            return self._natively(x, state, weight_hh, ids, fresh, products=backend.native)
        if route == "torch":
            return self._by_torch(x, state, weight_hh, fresh)
        if backend.autocast:  # once, instead of at every step
            weight_hh = weight_hh.to(backend.autocast)
        return self._by_loop(step, x, state, weight_hh, fresh)

    def _by_scan(
        self, x: Tensor, state: LayerState, backend: Backend, ids: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, LayerState]:
        bias = self.rnn.bias_ih_l0
        if backend.native and not self.onehot:
            sums = recurrent.projection(x, self.rnn.weight_ih_l0, bias, dtype=backend.native)
        else:
            sums = self._from_input(x, bias)
        y: Tensor = self.kind.function(sums, state[0], ids=ids, fresh=fresh)
        return y, (y[-1].clone(),)  # a view would keep all of y alive

    def _natively(
        self,
        x: Tensor,
        state: LayerState,
        weight_hh: Tensor,
        ids: Tensor | None,
        fresh: Tensor | None,
        *,
        products: torch.dtype | None,  # with x; None for torch's
    ) -> tuple[Tensor, LayerState]:
        bias, own = self._native_biases()
        given: dict[str, Any] = {"ids": ids, "bias": own, "fresh": fresh, "relu": self.activation is torch.relu}
        if self.onehot or products is None:
            sums = self._from_input(x, bias)
        else:
            sums, given = bias, given | {"x": x, "weight_x": self.rnn.weight_ih_l0}
        return recurrent.recurrent(self.settings.cell, sums, weight_hh, state, dtype=products or torch.float32, **given)

    def _native_biases(self) -> tuple[Tensor, Tensor | None]:
        """The biases of all sums (G*H,), and the bias of the GRU's candidate (H,), which the reset gate multiplies."""
        bias, bias_hh = self.rnn.bias_ih_l0, self.rnn.bias_hh_l0
        own = None
        if self.kind.step is gru_step:
            bias_hh, own = functional.pad(bias_hh[: -self.width], (0, self.width)), bias_hh[-self.width :]
        return bias + bias_hh, own

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
        # With biases, one layer, no dropout, one direction; unpacked input has time first.
        options = (True, 1, 0.0, self.training, False, *(() if packed else (False,)))
        y, *after = self.kind.function(x, *packed, inner if self.state_size > 1 else inner[0], weights, *options)
        state = tuple(part[0].float() for part in after)
        return (stretches.unpack(y, rows), stretches.state_after(state)) if stretches else (y, state)

    def _by_loop(
        self, step: Step, x: Tensor, state: LayerState, weight_hh: Tensor, fresh: Tensor | None
    ) -> tuple[Tensor, LayerState]:
        bias, apart = self.rnn.bias_ih_l0, step is gru_step  # whose reset gate comes between its biases
        from_input = self._from_input(x, bias if apart else bias + self.rnn.bias_hh_l0)
        bias_hh = self.rnn.bias_hh_l0 if apart else None
        return recurrence(step, from_input, weight_hh, bias_hh, state, self.activation, fresh)

    def _from_input(self, x: Tensor, bias: Tensor) -> Tensor:
        """What x (..., D) adds to the sums of all gates, (..., G*H), plus a bias (G*H,)."""
        return x + bias if self.onehot else functional.linear(x, self.rnn.weight_ih_l0, bias)

    def _one_step(self, step: Step, x: Tensor, state: LayerState, weight_hh: Tensor) -> LayerState:
        """Computes one step directly: for a single step, torch's modules take several times as long."""
        from_hidden = functional.linear(state[0], weight_hh, self.rnn.bias_hh_l0)
        return step(self._from_input(x, self.rnn.bias_ih_l0), from_hidden, state, self.activation)


Layer = RecurrentLayer | RegisteredLayer


def make_layer(settings: ModelSettings, inputs: int, width: int, depth: int = 0) -> Layer:
    """Makes the recurrent layer at `depth` of a model, of Scriven's own cells or of a registered one."""
    if settings.cell in CELLS:
        return RecurrentLayer(settings, inputs, width, depth)
    return RegisteredLayer(settings, inputs, width)


@dataclass(frozen=True)
class Stretches:
    """The S stretches of a chunk (T, N), longest first. A stretch ends at a fresh start of its row or at the end.

    Torch's fast functions read them as packed sequences. On GPUs these functions carry the state through all steps. To
    start afresh in the middle of a chunk without packed sequences, they would need a call for each such step.
    """

    sizes: Tensor  # (longest,) the number of stretches of at least 1, 2, .. steps; on the CPU
    places: Tensor  # (T * N,) the step t and row n of each packed value, as t * N + n
    rows: Tensor  # (S,) the row of each stretch
    begun: Tensor  # (S,) whether the stretch begins with a zero state
    last: Tensor  # (N,) the last stretch of each row

    @classmethod
    def of(cls, fresh: Tensor, device: torch.device) -> Stretches:
        """Finds the stretches between fresh starts (T, N). Makes indices on the CPU, then moves them to the device."""
        fresh = fresh.cpu()
        (steps, rows), begins = fresh.shape, fresh.clone()
        begins[0] = True
        row, start = begins.T.nonzero(as_tuple=True)  # (S,), row by row
        ends = torch.cat((start[1:], start[:1]))
        ends[ends <= start] = steps  # the next stretch belongs to the next row
        lengths, order = torch.sort(ends - start, descending=True, stable=True)  # (S,)
        row, start = row[order], start[order]
        sizes = (lengths[None] > torch.arange(int(lengths[0]))[:, None]).sum(1)  # (longest,)
        step = torch.repeat_interleave(torch.arange(len(sizes)), sizes)  # (T * N,) within the stretch
        number = torch.arange(step.numel()) - (sizes.cumsum(0) - sizes)[step]  # (T * N,) of the stretch
        places = (start[number] + step) * rows + row[number]
        last = torch.empty(rows, dtype=torch.int64)
        ending = (start + lengths == steps).nonzero().flatten()
        last[row[ending]] = ending
        moved = (each.to(device, non_blocking=True) for each in (places, row, (start > 0) | fresh[0][row], last))
        return cls(sizes, *moved)

    def pack(self, x: Tensor) -> Tensor:
        """Packs x (T, N, D) into values (T * N, D)."""
        return x.flatten(0, 1).index_select(0, self.places)

    def unpack(self, y: Tensor, rows: int) -> Tensor:
        """The inverse of `pack`; returns (T, N, D)."""
        return torch.empty_like(y).index_copy(0, self.places, y).view(-1, rows, y.shape[1])

    def states_before(self, state: LayerState) -> LayerState:
        """The state (S, H) before each stretch: the row of `state` (N, H), or zeros."""
        return tuple(part.index_select(0, self.rows).masked_fill(self.begun[:, None], 0) for part in state)

    def state_after(self, states: LayerState) -> LayerState:
        """The state (N, H) at the end of the chunk, from the states (S, H) at the ends of the stretches."""
        return tuple(part.index_select(0, self.last) for part in states)
