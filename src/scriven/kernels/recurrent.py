"""All steps of a recurrent layer as native code in bf16, with gradients, for processors that multiply bf16.

`recurrent` multiplies the input in each step, or takes products that were made before: by `projection`, or in a table
with one row per symbol. Products are of bf16 values with sums in fp32. The state is fp32, and the output of a step is
rounded to bf16, as in torch's own layers under autocast. Threads divide the cells; results do not depend on their
number.
"""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scriven.kernels import native_library
from scriven.kernels.native_library import NativeStruct, fields
from scriven.kernels.native_library import address as _address

CELLS_PER_GROUP = 32  # cells that the native code works on together


@dataclass(frozen=True)
class Cell:
    """A cell's number and sizes in native/recurrent_cells.h: its gates, and the values that it keeps for gradients."""

    number: int
    gates: int
    kept: int
    apart: bool = False  # whether the gradients of the sums from the input and from the hidden state differ
    states: int = 1  # arrays in its state


CELLS = {"rnn": Cell(0, 1, 1), "gru": Cell(1, 3, 5, True), "lstm": Cell(2, 4, 6, states=2)}


class _RecurrentForward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads cell steps rows cells symbols inputs"),
        *fields(c_void_p, "sums ids x weight_x weight bias fresh h c y kept h_after c_after"),
    )


class _RecurrentBackward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads cell steps rows cells"),
        *fields(c_void_p, "weight fresh kept dy dh_after dc_after dsums dhidden dh dc"),
    )


class _WeightGradient(NativeStruct):
    _fields_ = (*fields(c_int64, "threads k m n"), *fields(c_void_p, "x dy skip dweight sums"))


class _ProjectionForward(NativeStruct):
    _fields_ = (*fields(c_int64, "threads k m n"), *fields(c_void_p, "x weight bias y"))


class _InputGradient(NativeStruct):
    _fields_ = (*fields(c_int64, "threads k m n"), *fields(c_void_p, "dy weight dx"))


class _AddRows(NativeStruct):
    _fields_ = (*fields(c_int64, "threads k n symbols"), *fields(c_void_p, "ids dy dtable"))


def usable() -> bool:
    """Whether native code can run on this processor, and SCRIVEN_KERNELS allows it."""
    return native_library.multiplies_bf16()


def projection(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes x @ weight.T + bias (T, N, G*H) in bf16, from x (T, N, D), weight (G*H, D) and bias (G*H,)."""
    y: Tensor = Projection.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def recurrent(
    cell: str,
    from_input: Tensor,
    weight: Tensor,
    state: tuple[Tensor, ...],
    *,
    x: Tensor | None = None,
    weight_x: Tensor | None = None,
    ids: Tensor | None = None,
    bias: Tensor | None = None,
    fresh: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Computes all steps of a cell: y (T, N, H) in bf16, and the state (N, H) after the last step in fp32.

    from_input (T, N, G*H) are the sums of the gates without the products with `weight` (G*H, H). With ids (T, N), they
    are looked up as rows of from_input (V, G*H). With x (T, N, D) and weight_x (G*H, D), from_input is only the bias
    (G*H,), and their products are added to it. `bias` (H,) is the GRU's bias of the candidate's hidden part; all other
    biases are in from_input. If fresh (T, N) is true, the state of that row is zeroed before that step.
    """
    kept = torch.is_grad_enabled()
    y, *after = NativeRecurrence.apply(cell, kept, from_input, ids, x, weight_x, weight, bias, fresh, *state)  # type: ignore[no-untyped-call]
    return y, tuple(after)


class NativeRecurrence(torch.autograd.Function):
    """`recurrent`, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        name: str,
        keep: bool,
        from_input: Tensor,
        ids: Tensor | None,
        x: Tensor | None,
        weight_x: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        fresh: Tensor | None,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        """y (T, N, H) and the state after the last step (N, H)."""
        cell, (rows, cells) = CELLS[name], state[0].shape
        steps = len(next(each for each in (ids, x, from_input) if each is not None))
        sums, weight, *state_before = (*_bf16(from_input), *fp32(weight, *state))
        x = None if x is None else _bf16(x)[0]
        weight_x = None if weight_x is None else fp32(weight_x)[0]
        bias = None if bias is None else bias.float().contiguous()
        ids = None if ids is None else ids.long().expand(steps, rows).contiguous()
        fresh = None if fresh is None else fresh.to("cpu", torch.bool).expand(steps, rows).contiguous()
        check_arrays(cell, (steps, rows, cells), sums, ids, weight, bias, state_before, x, weight_x)
        hs = sums.new_empty(steps + 1, rows, cells)
        hs[0] = state_before[0]
        kept = (
            sums.new_empty(steps * -(-cells // CELLS_PER_GROUP) * rows * cell.kept * CELLS_PER_GROUP) if keep else None
        )
        after = [torch.empty_like(part) for part in state_before]
        (h, c), (h_after, c_after) = addresses_of_state(state_before), addresses_of_state(after)
        native_library.call(
            _RecurrentForward(
                threads=native_library.threads(),
                cell=cell.number,
                steps=steps,
                rows=rows,
                cells=cells,
                symbols=0 if ids is None else len(sums),
                inputs=0 if x is None else x.shape[2],
                sums=_address(sums),
                ids=_address(ids),
                x=_address(x),
                weight_x=_address(weight_x),
                weight=_address(weight),
                bias=_address(bias),
                fresh=_address(fresh),
                h=h,
                c=c,
                y=_address(hs[1:]),
                kept=_address(kept),
                h_after=h_after,
                c_after=c_after,
            )
        )
        ctx.cell, ctx.symbols = cell, len(sums)
        ctx.save_for_backward(x, weight_x, weight, hs, kept, ids, fresh)
        return hs[1:], *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *dafter: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all arguments, from those of y (T, N, H) and of the last state (N, H)."""
        x, weight_x, weight, hs, kept, ids, fresh = ctx.saved_tensors
        cell, (_, rows, cells), steps = ctx.cell, hs.shape, len(hs) - 1
        (dy,), dafter = _bf16(dy), fp32(*dafter)
        dsums = hs.new_empty(steps, rows, cell.gates * cells)
        dhidden = torch.empty_like(dsums) if cell.apart else dsums
        dstate = [torch.empty_like(part) for part in dafter]
        (dh_after, dc_after), (dh, dc) = addresses_of_state(dafter), addresses_of_state(dstate)
        native_library.call(
            _RecurrentBackward(
                threads=native_library.threads(),
                cell=cell.number,
                steps=steps,
                rows=rows,
                cells=cells,
                weight=_address(weight),
                fresh=_address(fresh),
                kept=_address(kept),
                dy=_address(dy),
                dh_after=dh_after,
                dc_after=dc_after,
                dsums=_address(dsums),
                dhidden=_address(dhidden) if cell.apart else None,
                dh=dh,
                dc=dc,
            )
        )
        dbiases = dsums.new_zeros(cell.gates * cells, dtype=torch.float32) if cell.apart else None
        dweight = weight_gradient(hs[:-1], dhidden, fresh, dbiases)
        dbias = None if dbiases is None else dbiases[-cells:]
        dinput, dx, dweight_x = dsums if ids is None else _sum_rows(ids, dsums, ctx.symbols), None, None
        if x is not None:
            dx, dweight_x, dinput = _through_product(x, weight_x, dsums, ctx.needs_input_grad[4])
        return None, None, dinput, None, dx, dweight_x, dweight, dbias, None, *dstate


class Projection(torch.autograd.Function):
    """`projection`, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The projection (T, N, G*H) of x (T, N, D)."""
        (x,), (weight, bias) = _bf16(x), fp32(weight, bias)
        check_shapes({"weight": (weight, (len(bias), x.shape[-1])), "x": (x, x.shape), "bias": (bias, (len(bias),))})
        ctx.save_for_backward(x, weight)
        y = x.new_empty(*x.shape[:-1], len(weight))
        native_library.call(
            _ProjectionForward(
                threads=native_library.threads(),
                k=y.shape[:-1].numel(),
                m=weight.shape[1],
                n=len(weight),
                x=_address(x),
                weight=_address(weight),
                bias=_address(bias),
                y=_address(y),
            )
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias, from the gradient of y (T, N, G*H)."""
        (x, weight), (dy,) = ctx.saved_tensors, _bf16(dy)
        return _through_product(x, weight, dy, ctx.needs_input_grad[0])


def _through_product(x: Tensor, weight: Tensor, dy: Tensor, needs_dx: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients of x (..., D), weight (G, D) and bias (G,), from dy (..., G), where y = x @ weight.T + bias."""
    dbias = torch.zeros(len(weight))
    dx = _input_gradient(weight, dy) if needs_dx else None
    return dx, weight_gradient(x, dy, None, dbias), dbias


def _input_gradient(weight: Tensor, dy: Tensor) -> Tensor:
    """Computes dy (..., G) @ weight (G, D) in bf16: (..., D)."""
    dx = dy.new_empty(*dy.shape[:-1], weight.shape[1])
    native_library.call(
        _InputGradient(
            threads=native_library.threads(),
            k=dy.shape[:-1].numel(),
            m=weight.shape[1],
            n=len(weight),
            dy=_address(dy),
            weight=_address(weight),
            dx=_address(dx),
        )
    )
    return dx


def weight_gradient(x: Tensor, dy: Tensor, skip: Tensor | None, sums: Tensor | None) -> Tensor:
    """dy^T x (G, D) in fp32, summed over all steps and rows that are not skipped. Adds the sums of dy to `sums`."""
    gradient = torch.empty(dy.shape[-1], x.shape[-1])
    native_library.call(
        _WeightGradient(
            threads=native_library.threads(),
            k=dy.shape[:-1].numel(),
            m=x.shape[-1],
            n=dy.shape[-1],
            x=_address(x),
            dy=_address(dy),
            skip=_address(skip),
            dweight=_address(gradient),
            sums=_address(sums),
        )
    )
    return gradient


def _sum_rows(ids: Tensor, dy: Tensor, symbols: int) -> Tensor:
    """The gradient (V, G) of a table whose rows ids (T, N) were looked up, from the gradients of the rows (T, N, G)."""
    gradient = torch.zeros(symbols, dy.shape[-1])
    native_library.call(
        _AddRows(
            threads=native_library.threads(),
            k=ids.numel(),
            n=dy.shape[-1],
            symbols=symbols,
            ids=_address(ids),
            dy=_address(dy),
            dtable=_address(gradient),
        )
    )
    return gradient


def check_arrays(
    cell: Cell,
    shape: tuple[int, int, int],
    sums: Tensor,
    ids: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    state: list[Tensor],
    x: Tensor | None = None,
    weight_x: Tensor | None = None,
) -> None:
    """Raises ValueError for arrays that native code must not get, as it would access memory outside of them."""
    steps, rows, cells = shape
    gates = cell.gates * cells
    if (x is None) != (weight_x is None):
        raise ValueError("x and weight_x belong together: give both or none")
    if len(state) != cell.states:
        raise ValueError(f"a state of {len(state)} arrays, not {cell.states}")
    read = {}
    if x is not None and weight_x is not None:
        read = {"x": (x, (steps, rows, x.shape[-1])), "its weight": (weight_x, (gates, x.shape[-1]))}
    before = () if x is not None else sums.shape[:1] if ids is not None else (steps, rows)
    check_shapes(
        {
            "sums": (sums, (*before, gates)),
            **read,
            "weight": (weight, (gates, cells)),
            **({} if bias is None else {"bias": (bias, (cells,))}),
            **{f"state {number}": (part, (rows, cells)) for number, part in enumerate(state)},
        }
    )


def check_shapes(expected: dict[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    """Raises ValueError for named arrays on the CPU that do not have the shapes that stand beside them."""
    for name, (array, wanted) in expected.items():
        if array.shape != wanted or array.device.type != "cpu":
            raise ValueError(f"{name} of shape {tuple(array.shape)} on {array.device}, not {tuple(wanted)} on the CPU")


def _bf16(*arrays: Tensor) -> tuple[Tensor, ...]:
    return tuple(array.to(torch.bfloat16).contiguous() for array in arrays)


def fp32(*arrays: Tensor) -> tuple[Tensor, ...]:
    """Makes arrays fp32 and contiguous, as native code needs them."""
    return tuple(array.float().contiguous() for array in arrays)


def addresses_of_state(state: Any) -> tuple[int | None, int | None]:
    """The addresses of h and c; c is None except for the LSTM."""
    h, *c = state
    return _address(h), _address(c[0]) if c else None
