"""All steps of a recurrent layer as native code, with gradients, in fp32 or bf16.

`recurrent` multiplies the input too, or takes sums that were made before. One native call goes forward, and one back,
with the gradients of all arguments. The number format is that of values and products; sums and the state are in fp32.
In bf16, the output of a step is rounded, as in torch's own layers under autocast. Threads divide the rows or the cells;
results do not depend on their number.
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

CELLS_PER_GROUP = 32  # a multiple of the cells that native code works on together


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
        *fields(c_int64, "threads bf16 cell relu steps rows cells symbols inputs"),
        *fields(c_void_p, "sums ids x weight_x bias_x weight bias fresh h c y kept h_after c_after"),
    )


class _RecurrentBackward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads bf16 cell relu steps rows cells symbols inputs"),
        *fields(c_void_p, "ids x weight_x weight fresh h kept dy dh_after dc_after"),
        *fields(c_void_p, "dsums dx dweight_x dbias_x dweight dbias dh dc"),
    )


class _WeightGradient(NativeStruct):
    _fields_ = (*fields(c_int64, "threads bf16 k m n"), *fields(c_void_p, "x dy skip dweight sums"))


class _Projection(NativeStruct):
    _fields_ = (*fields(c_int64, "threads bf16 k m n turned"), *fields(c_void_p, "x weight bias y"))


def usable(dtype: torch.dtype) -> bool:
    """Whether native code trains in a number format on this processor, and SCRIVEN_KERNELS allows it.

    It does in fp32 on every processor, and in bf16 on those that multiply it.
    """
    if dtype == torch.bfloat16:
        return native_library.multiplies_bf16()
    return dtype == torch.float32 and native_library.level() != "off"


def projection(x: Tensor, weight: Tensor, bias: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Computes x @ weight.T + bias (..., G*H) in `dtype`, from x (..., D), weight (G*H, D) and bias (G*H,).

    Raises ValueError for arrays whose shapes do not match.
    """
    y: Tensor = NativeProjection.apply(x, weight, bias, dtype)  # type: ignore[no-untyped-call]
    return y


def recurrent(
    cell: str,
    from_input: Tensor,
    weight: Tensor,
    state: tuple[Tensor, ...],
    *,
    dtype: torch.dtype,
    relu: bool = False,
    x: Tensor | None = None,
    weight_x: Tensor | None = None,
    ids: Tensor | None = None,
    bias: Tensor | None = None,
    fresh: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Computes all steps of a cell: y (T, N, H) in `dtype`, and the state (N, H) after the last step in fp32.

    from_input (T, N, G*H) are the sums of the gates without the products with `weight` (G*H, H). With ids (T, N), they
    are looked up as rows of from_input (V, G*H). With weight_x (G*H, D) and x (T, N, D), or (V, D) with ids, from_input
    is only the bias (G*H,), and their products are added to it. `bias` (H,) is the GRU's bias of the candidate's hidden
    part; all other biases are in from_input. With `relu`, that bounds the cell, and not tanh. If fresh (T, N) is true,
    the state of that row is zeroed before that step.

    Raises ValueError for arrays whose shapes do not match, RuntimeError for ids that have no row.
    """
    how = _How(CELLS[cell], dtype, relu, keeps=torch.is_grad_enabled())
    y, *after = NativeRecurrence.apply(how, from_input, ids, x, weight_x, weight, bias, fresh, *state)  # type: ignore[no-untyped-call]
    return y, tuple(after)


@dataclass(frozen=True)
class _How:
    """How a layer is computed: its cell, its number format, what bounds it, and whether gradients are asked for."""

    cell: Cell
    dtype: torch.dtype
    relu: bool
    keeps: bool


class NativeRecurrence(torch.autograd.Function):
    """`recurrent`, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        how: _How,
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
        cell, (rows, cells) = how.cell, state[0].shape
        steps = len(next(each for each in (ids, x, from_input) if each is not None))
        from_input, x = as_dtype(from_input, how.dtype if x is None else torch.float32), as_dtype(x, how.dtype)
        weight_x, weight, bias = (as_dtype(each, torch.float32) for each in (weight_x, weight, bias))
        state_before = [as_dtype(part, torch.float32) for part in state]
        ids = None if ids is None else ids.long().expand(steps, rows).contiguous()
        fresh = None if fresh is None else fresh.to("cpu", torch.bool).expand(steps, rows).contiguous()
        check_arrays(cell, (steps, rows, cells), from_input, ids, weight, bias, state_before, x, weight_x)
        hs = torch.empty(steps + 1, rows, cells, dtype=how.dtype)
        hs[0] = state_before[0]
        padded = -(-cells // CELLS_PER_GROUP) * CELLS_PER_GROUP
        kept = hs.new_empty(steps * padded * rows * cell.kept) if how.keeps else None
        after = [torch.empty_like(part) for part in state_before]
        (h, c), (h_after, c_after) = _h_and_c(state_before), _h_and_c(after)
        native_library.call(
            _RecurrentForward(
                threads=native_library.threads(),
                bf16=is_bf16(hs),
                cell=cell.number,
                relu=how.relu,
                steps=steps,
                rows=rows,
                cells=cells,
                symbols=_symbols(ids, from_input, x),
                inputs=0 if x is None else x.shape[-1],
                sums=from_input if x is None else None,
                ids=ids,
                x=x,
                weight_x=weight_x,
                bias_x=None if x is None else from_input,
                weight=weight,
                bias=bias,
                fresh=fresh,
                h=h,
                c=c,
                y=hs[1:],
                kept=kept,
                h_after=h_after,
                c_after=c_after,
            )
        )
        ctx.how, ctx.shape = how, from_input.shape
        ctx.save_for_backward(x, weight_x, weight, hs, kept, ids, fresh)
        return hs[1:], *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *dafter: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all arguments, from those of y (T, N, H) and of the last state (N, H)."""
        x, weight_x, weight, hs, kept, ids, fresh = ctx.saved_tensors
        cell, (_, rows, cells), steps = ctx.how.cell, hs.shape, len(hs) - 1
        dy, after = as_dtype(dy, hs.dtype), [as_dtype(part, torch.float32) for part in dafter]
        summed = x is not None or ids is not None  # over steps and rows, in fp32
        dinput = torch.empty(ctx.shape, dtype=torch.float32 if summed else hs.dtype)
        dx = torch.empty_like(x) if ctx.needs_input_grad[3] else None
        dweight_x = None if x is None else torch.empty_like(weight_x)
        dweight, dbias = torch.empty_like(weight), torch.empty(cell.gates * cells) if cell.apart else None
        dstate = [torch.empty_like(part) for part in after]
        (dh_after, dc_after), (dh, dc) = _h_and_c(after), _h_and_c(dstate)
        native_library.call(
            _RecurrentBackward(
                threads=native_library.threads(),
                bf16=is_bf16(hs),
                cell=cell.number,
                relu=ctx.how.relu,
                steps=steps,
                rows=rows,
                cells=cells,
                symbols=_symbols(ids, dinput, x),
                inputs=0 if x is None else x.shape[-1],
                ids=ids,
                x=x,
                weight_x=weight_x,
                weight=weight,
                fresh=fresh,
                h=hs,
                kept=kept,
                dy=dy,
                dh_after=dh_after,
                dc_after=dc_after,
                dsums=dinput if x is None else None,
                dx=dx,
                dweight_x=dweight_x,
                dbias_x=None if x is None else dinput,
                dweight=dweight,
                dbias=dbias,
                dh=dh,
                dc=dc,
            )
        )
        return None, dinput, None, dx, dweight_x, dweight, None if dbias is None else dbias[-cells:], None, *dstate


def _symbols(ids: Tensor | None, from_input: Tensor, x: Tensor | None) -> int:
    """The number of rows that ids name, of the sums or of x; 0 without ids."""
    return 0 if ids is None else len(from_input if x is None else x)


class NativeProjection(torch.autograd.Function):
    """`projection`, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """The projection (..., G*H) of x (..., D)."""
        x, weight, bias = as_dtype(x, dtype), as_dtype(weight, torch.float32), as_dtype(bias, torch.float32)
        check_shapes({"weight": (weight, (len(bias), x.shape[-1])), "x": (x, x.shape), "bias": (bias, (len(bias),))})
        ctx.save_for_backward(x, weight)
        return _project(x, weight, bias, turned=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias, from the gradient of y (..., G*H)."""
        x, weight = ctx.saved_tensors
        dy = as_dtype(dy, x.dtype)
        dx = _project(dy, weight, None, turned=False) if ctx.needs_input_grad[0] else None
        dweight, dbias = torch.empty_like(weight), torch.empty(len(weight))
        native_library.call(
            _WeightGradient(
                threads=native_library.threads(),
                bf16=is_bf16(x),
                k=dy.shape[:-1].numel(),
                m=x.shape[-1],
                n=dy.shape[-1],
                x=x,
                dy=dy,
                skip=None,
                dweight=dweight,
                sums=dbias,
            )
        )
        return dx, dweight, dbias, None


def _project(x: Tensor, weight: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor:
    """Computes x (..., D) @ weight (D, G), or with `turned` @ weight.T from weight (G, D), plus bias (G,): (..., G)."""
    y = x.new_empty(*x.shape[:-1], weight.shape[0 if turned else 1])
    native_library.call(
        _Projection(
            threads=native_library.threads(),
            bf16=is_bf16(x),
            k=x.shape[:-1].numel(),
            m=x.shape[-1],
            n=y.shape[-1],
            turned=turned,
            x=x,
            weight=weight,
            bias=bias,
            y=y,
        )
    )
    return y


def check_arrays(
    cell: Cell,
    shape: tuple[int, int, int],
    from_input: Tensor,
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
        many = (steps, rows) if ids is None else x.shape[:1]
        read = {"x": (x, (*many, x.shape[-1])), "its weight": (weight_x, (gates, x.shape[-1]))}
    before = () if x is not None else from_input.shape[:1] if ids is not None else (steps, rows)
    check_shapes(
        {
            "sums": (from_input, (*before, gates)),
            **read,
            "weight": (weight, (gates, cells)),
            **({} if bias is None else {"bias": (bias, (cells,))}),
            **{f"state {number}": (part, (rows, cells)) for number, part in enumerate(state)},
        }
    )


def check_shapes(expected: dict[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    """Raises ValueError for named arrays on the CPU that do not have the expected shapes."""
    for name, (array, wanted) in expected.items():
        if array.shape != wanted or array.device.type != "cpu":
            raise ValueError(f"{name} of shape {tuple(array.shape)} on {array.device}, not {tuple(wanted)} on the CPU")


def as_dtype(array: Any, dtype: torch.dtype) -> Any:
    """An array in a number format and contiguous, as native code needs it; None for None."""
    return None if array is None else array.to(dtype).contiguous()


def is_bf16(array: Tensor) -> bool:
    """Whether an array that native code gets is in bf16, not in fp32."""
    return array.dtype == torch.bfloat16


def _h_and_c(state: Any) -> tuple[Tensor, Tensor | None]:
    """h and c of a state; c is None except for the LSTM."""
    h, *c = state
    return h, c[0] if c else None
