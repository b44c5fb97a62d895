"""Recurrence in plain torch: one step of each cell, a loop for what torch's modules cannot do, and registered cells.

A layer's state is a tuple of arrays (N, H): `(h,)` for rnn and gru, `(h, c)` for lstm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from scriven.errors import UsageError
from scriven.settings import REGISTERED_CELLS, ModelSettings

aten = torch.ops.aten
LayerState = tuple[Tensor, ...]
Activation = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Tensor, LayerState, Activation], LayerState]


def rnn_step(
    from_input: Tensor, from_hidden: Tensor, state: LayerState, activation: Activation = torch.tanh
) -> LayerState:
    """One step of the Elman network: h = tanh(W x + b + U h + c). Both sums (N, H) include their biases."""
    return (activation(from_input + from_hidden),)


def gru_step(
    from_input: Tensor, from_hidden: Tensor, state: LayerState, activation: Activation = torch.tanh
) -> LayerState:
    """One step of the GRU (Cho et al. 2014, in torch's form: reset after the product). Arguments (N, 3H)."""
    input_r, input_z, input_n = from_input.chunk(3, 1)
    hidden_r, hidden_z, hidden_n = from_hidden.chunk(3, 1)
    reset = torch.sigmoid(input_r + hidden_r)
    keep = torch.sigmoid(input_z + hidden_z)
    new = activation(input_n + reset * hidden_n)
    return (new + keep * (state[0] - new),)


def lstm_step(
    from_input: Tensor, from_hidden: Tensor, state: LayerState, activation: Activation = torch.tanh
) -> LayerState:
    """One step of the LSTM (Hochreiter & Schmidhuber 1997, with forget gate; no peepholes). Arguments (N, 4H).

    The activation bounds both the candidate and the output, as in Keras.
    """
    i, f, g, o = (from_input + from_hidden).chunk(4, 1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * activation(g)
    return (torch.sigmoid(o) * activation(c), c)


def recurrence(
    step: Step,
    from_input: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    state: LayerState,
    activation: Activation = torch.tanh,
    fresh: Tensor | None = None,
) -> tuple[Tensor, LayerState]:
    """Computes all steps of a cell from the input's sums from_input (T, N, G*H): y (T, N, H), and the last state.

    weight_hh (G*H, H) and bias_hh (G*H,) are as in torch's modules; the bias is None when `from_input` includes it. If
    fresh (T, N) is true, the state of that row is zeroed before that step. Under autocast, matrix products use its
    number format, which the weight should have already: else it is converted at every step. The state keeps its own.
    """
    from_input, relu = from_input.to(state[0].dtype), activation is torch.relu
    begun = [None] * len(from_input) if fresh is None else starts(fresh, from_input.device)
    if step is lstm_step:
        sums = from_input if bias_hh is None else from_input + bias_hh
        y, c = LSTMRecurrence.apply(sums, weight_hh, *state, relu, begun)  # type: ignore[no-untyped-call]
        return y, (y[-1], c)
    outputs = []
    for sums, rows in zip(from_input.unbind(), begun, strict=True):
        state = state if rows is None else tuple(part.masked_fill(rows, 0) for part in state)
        state = step(sums, functional.linear(state[0], weight_hh, bias_hh), state, activation)
        outputs.append(state[0])
    return torch.stack(outputs), state


def starts(fresh: Tensor, device: torch.device) -> list[Tensor | None]:
    """For every step of fresh (T, N), the mask (N, 1) of the rows that start afresh; None when no row does."""
    there = fresh.any(1).tolist()
    return [rows if any_row else None for rows, any_row in zip(fresh.to(device)[..., None], there, strict=True)]


class LSTMRecurrence(torch.autograd.Function):
    """All steps of `lstm_step`, with a gradient written by hand.

    The forward pass keeps the gates. The backward pass computes only the gradients of the gates' sums step by step, in
    arrays that stay in the processor's cache. Then it makes the gradient of the weights with one product.
    """

    @staticmethod
    def forward(
        ctx: Any, sums: Tensor, weight: Tensor, h: Tensor, c: Tensor, relu: bool, begun: list[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """y (T, N, H) and the last c (N, H), from sums with both biases (T, N, 4H), weight (4H, H) and the state.

        `begun` is the result of `starts`.
        """
        gates, start = torch.empty_like(sums), (h, c)  # (T, N, 4H)
        hs, cs = (part.new_empty(len(sums), *part.shape) for part in start)  # (T, N, H)
        transposed = weight.T
        steps = zip(sums, _by_step(gates), hs, cs, begun, strict=True)
        for x, (gate, i_and_f, i, f, g, o), h_after, c_after, rows in steps:
            h, c = _zero_rows(h, rows), _zero_rows(c, rows)
            _add_product(x, h, transposed, out=gate)
            i_and_f.sigmoid_()
            o.sigmoid_()
            _apply_bound(g, relu, out=g)
            c = torch.mul(f, c, out=c_after).addcmul_(i, g)
            h = torch.mul(o, _apply_bound(c, relu), out=h_after)
        ctx.relu, ctx.begun = relu, begun
        ctx.save_for_backward(gates, *start, hs, cs, weight)
        return hs, c.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dc: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        """The gradients of all arguments, given those of y (T, N, H) and of the last c (N, H)."""
        gates, h, c, hs, cs, weight = ctx.saved_tensors
        dsums, dh, dc = torch.empty_like(gates), torch.zeros_like(h), dc.clone()  # (T, N, 4H), (N, H), (N, H)
        before = [_zero_rows(part, rows) for part, rows in zip([c, *cs[:-1]], ctx.begun, strict=True)]
        steps = list(zip(dy, _by_step(gates), _by_step(dsums), cs, before, ctx.begun, strict=True))
        for dh_t, (_, i_and_f, i, f, g, o), dstep, c_after, c_before, rows in reversed(steps):
            dsum, di_and_df, di, df, dg, do = dstep
            dh = dh + dh_t
            bounded = _apply_bound(c_after, ctx.relu)
            torch.mul(dh, bounded, out=do)
            dc.add_(_through_bound(dh.mul_(o), bounded, ctx.relu))
            torch.mul(dc, g, out=di)
            torch.mul(dc, c_before, out=df)
            torch.mul(dc, i, out=dg)
            aten.sigmoid_backward(di_and_df, i_and_f, grad_input=di_and_df)
            aten.sigmoid_backward(do, o, grad_input=do)
            _through_bound(dg, g, ctx.relu, grad_input=dg)
            dc = _zero_rows(dc.mul_(f), rows)
            dh = _zero_rows(dsum.to(weight.dtype) @ weight, rows)
        h_before = torch.stack([_zero_rows(part, rows) for part, rows in zip([h, *hs[:-1]], ctx.begun, strict=True)])
        dweight = dsums.flatten(0, 1).to(weight.dtype).T @ h_before.flatten(0, 1).to(weight.dtype)
        return dsums, dweight, dh.to(h.dtype), dc, None, None


def _zero_rows(part: Tensor, rows: Tensor | None) -> Tensor:
    return part if rows is None else part.masked_fill(rows, 0)


def _by_step(gates: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of each step of gates (T, N, 4H): all gates, i and f together (N, 2H), and i, f, g, o (N, H) each."""
    i_and_f, _ = gates.chunk(2, 2)
    return zip(*(part.unbind() for part in (gates, i_and_f, *gates.chunk(4, 2))), strict=True)


def _add_product(sums: Tensor, x: Tensor, weight: Tensor, out: Tensor) -> None:
    """Computes out = sums + x @ weight, with the product in the number format of the weight."""
    if x.dtype == weight.dtype:
        torch.addmm(sums, x, weight, out=out)
    else:
        torch.add(sums, x.to(weight.dtype) @ weight, out=out)


def _apply_bound(x: Tensor, relu: bool, out: Tensor | None = None) -> Tensor:
    return torch.clamp(x, min=0, out=out) if relu else torch.tanh(x, out=out)


def _through_bound(gradient: Tensor, bounded: Tensor, relu: bool, **out: Tensor) -> Any:
    """The gradient before the activation, given the gradient after it and the activation's output."""
    return (
        aten.threshold_backward(gradient, bounded, 0, **out) if relu else aten.tanh_backward(gradient, bounded, **out)
    )


class RegisteredLayer(nn.Module):
    """One recurrent layer whose cell a program has registered. It is called like a `RecurrentLayer`.

    A one-hot layer reads one-hot vectors x (T, N, V).
    """

    def __init__(self, settings: ModelSettings, inputs: int, width: int) -> None:
        """Makes the layer with the registered factory. Raises UsageError if the result is not a valid layer."""
        super().__init__()
        self.cell, self.inputs, self.width = settings.cell, inputs, width
        self.rnn, self.state_widths = make_cell(settings.cell, inputs, width)

    recurrent_weight = None

    @property
    def matrices(self) -> list[Tensor]:
        """The learned weights of two dimensions."""
        return [each for each in self.parameters() if each.ndim == 2 and each.requires_grad]

    @property
    def columns(self) -> Tensor:
        """The one-hot vector of each input, (D, D)."""
        return torch.eye(self.inputs, device=next(self.parameters()).device)

    def zero_state(self, rows: int) -> LayerState:
        """Returns the state before anything was read: arrays of zeros (N, K), K by the module's `state_widths`."""
        device = next(self.parameters()).device
        return tuple(torch.zeros(rows, width, device=device) for width in self.state_widths)

    def forward(
        self,
        x: Tensor,
        state: LayerState,
        backend: object = None,
        *,
        weight_hh: Tensor | None = None,
        ids: Tensor | None = None,
        fresh: Tensor | None = None,
    ) -> tuple[Tensor, LayerState]:
        """Reads x (T, N, D) from `state` on. Returns y (T, N, H) and the state after the last step, in fp32.

        If `fresh` (T, N) is true, the state of that row is zeroed before that step. The module is called once for all
        steps between two of these. Raises UsageError if it returns arrays of other shapes.
        """
        begun = [None] * len(x) if fresh is None else starts(fresh, x.device)
        cuts = [step for step, rows in enumerate(begun) if step and rows is not None]
        outputs = []
        for first, last in pairwise([0, *cuts, len(x)]):
            if (rows := begun[first]) is not None:
                state = tuple(part.masked_fill(rows, 0) for part in state)
            y, state = self._read(x[first:last], state)
            outputs.append(y)
        return torch.cat(outputs), state

    def _read(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        shapes = [(*x.shape[:2], self.width), *(tuple(part.shape) for part in state)]
        result = self.rnn(x, state)
        match result:
            case Tensor() as y, tuple() as after if [tuple(part.shape) for part in (y, *after)] == shapes:
                return y, tuple(part.to(before.dtype) for part, before in zip(after, state, strict=True))
        raise UsageError(
            f"model.cell {self.cell} must return y and a tuple of the state after it, arrays of {shapes}, for x of "
            f"{tuple(x.shape)}; not {_show_shapes(result)}"
        )


def _show_shapes(result: object) -> object:
    """Returns the shapes of arrays in tuples, and the type of anything else."""
    if isinstance(result, tuple):
        return tuple(map(_show_shapes, result))
    return tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__


def make_cell(name: str, inputs: int, width: int) -> tuple[nn.Module, tuple[int, ...]]:
    """Makes the module of a layer with a registered factory. Returns it with the widths of its state.

    Raises UsageError if the factory does not make a module, or makes one that Scriven could not save.
    """
    registered = REGISTERED_CELLS.find(name)
    if registered is None:
        raise UsageError(f"model.cell {name} is not registered; import the module that registers it")
    try:
        module = registered.make(inputs, width)
    except Exception as error:
        raise UsageError(
            f"model.cell {name} cannot be made with {inputs:,} inputs and a width of {width:,}: {error} "
            f"({type(error).__name__}). It must also work on torch's meta device, whose arrays have no values"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"model.cell {name} makes {type(module).__name__}, not a torch.nn.Module")
    widths = getattr(module, "state_widths", (width,))
    if not (isinstance(widths, tuple) and all(type(each) is int and each > 0 for each in widths)):
        raise UsageError(f"model.cell {name} has state_widths {widths!r}; give a tuple of widths, such as ({width},)")
    learned = dict(module.named_parameters(remove_duplicate=False))
    if not learned or learned.keys() != module.state_dict().keys():
        raise UsageError(f"model.cell {name} must have parameters and no buffers, but those with persistent=False")
    if any(each.dtype != torch.float32 for each in learned.values()):
        raise UsageError(f"model.cell {name} has parameters that are not float32; precision is a setting of training")
    return module, widths


def describe_cell(name: str, inputs: int, width: int) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Returns the names and shapes of a registered cell's weights, and its state's widths, without allocating them."""
    with torch.device("meta"):
        module, widths = make_cell(name, inputs, width)
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}, widths


@contextmanager
def seeded_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's own random generators in this context, and restores them afterwards."""
    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
