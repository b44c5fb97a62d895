"""All steps of a recurrent layer as native code in fp32, with gradients, for any processor.

The arguments and cells are those of `scriven.kernels.recurrent`. The sums from the input are computed before, by
`projection`, or in a table with one row per symbol. Products with the recurrent weights are made step by step, from
weights that are packed for vectors once. All other products are of whole arrays. Results are the same bits for any
number of threads.
"""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scriven.kernels import native_library
from scriven.kernels.native_library import NativeStruct, fields
from scriven.kernels.native_library import address as _address
from scriven.kernels.recurrent import CELLS, addresses_of_state, check_arrays, check_shapes, fp32

CELLS_PER_GROUP = 32  # cells that native code keeps values for together: a multiple of what it works on


class _StepsForward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads cell steps rows cells symbols"),
        *fields(c_void_p, "sums ids weight bias fresh h c y kept h_after c_after"),
    )


class _StepsBackward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads cell steps rows cells"),
        *fields(c_void_p, "weight fresh kept dy dh_after dc_after dsums dhidden dh dc"),
    )


class _ProductFp32(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads rows columns depth left_turned right_turned"),
        *fields(c_void_p, "left right bias skip out sums"),
    )


class _StepsAddRows(NativeStruct):
    _fields_ = (*fields(c_int64, "threads count width"), *fields(c_void_p, "ids dy dtable"))


def usable() -> bool:
    """Whether native code that is faster than torch can run on this processor, and SCRIVEN_KERNELS allows it."""
    return native_library.level() not in ("off", "portable")


def projection(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes x @ weight.T + bias (..., G*H) in fp32, from x (..., D), weight (G*H, D) and bias (G*H,).

    Raises ValueError for arrays whose shapes do not match.
    """
    y: Tensor = Fp32Projection.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def recurrent(
    cell: str,
    from_input: Tensor,
    weight: Tensor,
    state: tuple[Tensor, ...],
    *,
    ids: Tensor | None = None,
    bias: Tensor | None = None,
    fresh: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Computes all steps of a cell: y (T, N, H), and the state (N, H) after the last step, in fp32.

    Arguments are as in `scriven.kernels.recurrent.recurrent`.

    Raises ValueError for arrays whose shapes do not match, RuntimeError for ids that have no row.
    """
    keep = torch.is_grad_enabled()
    y, *after = NativeFp32Recurrence.apply(cell, keep, from_input, ids, weight, bias, fresh, *state)  # type: ignore[no-untyped-call]
    return y, tuple(after)


class NativeFp32Recurrence(torch.autograd.Function):
    """`recurrent`, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        name: str,
        keep: bool,
        from_input: Tensor,
        ids: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        fresh: Tensor | None,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        """y (T, N, H) and the state after the last step (N, H)."""
        cell, (rows, cells) = CELLS[name], state[0].shape
        steps = len(from_input if ids is None else ids)
        sums, weight, *before = fp32(from_input, weight, *state)
        bias = None if bias is None else bias.float().contiguous()
        ids = None if ids is None else ids.long().expand(steps, rows).contiguous()
        fresh = None if fresh is None else fresh.to("cpu", torch.bool).expand(steps, rows).contiguous()
        check_arrays(cell, (steps, rows, cells), sums, ids, weight, bias, before)
        hs = sums.new_empty(steps + 1, rows, cells)
        hs[0] = before[0]
        kept = (
            sums.new_empty(steps * -(-cells // CELLS_PER_GROUP) * rows * cell.kept * CELLS_PER_GROUP) if keep else None
        )
        after = [torch.empty_like(part) for part in before]
        threads = native_library.threads()
        (h, c), (h_after, c_after) = addresses_of_state(before), addresses_of_state(after)
        native_library.call(
            _StepsForward(
                threads=threads,
                cell=cell.number,
                steps=steps,
                rows=rows,
                cells=cells,
                symbols=0 if ids is None else len(sums),
                sums=_address(sums),
                ids=_address(ids),
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
        ctx.cell, ctx.threads, ctx.symbols = cell, threads, len(sums)
        ctx.save_for_backward(weight, hs, kept, ids, fresh)
        return hs[1:], *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *dafter: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all arguments, from those of y (T, N, H) and of the last state (N, H)."""
        weight, hs, kept, ids, fresh = ctx.saved_tensors
        cell, (_, rows, cells), steps = ctx.cell, hs.shape, len(hs) - 1
        dy, *after = fp32(dy, *dafter)
        dsums = hs.new_empty(steps, rows, cell.gates * cells)
        dhidden = torch.empty_like(dsums) if cell.apart else dsums
        dstate = [torch.empty_like(part) for part in after]
        (dh_after, dc_after), (dh, dc) = addresses_of_state(after), addresses_of_state(dstate)
        native_library.call(
            _StepsBackward(
                threads=ctx.threads,
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
        dweight, dbiases = _weight_gradient(hs[:-1], dhidden, fresh)
        dbias = dbiases[-cells:] if cell.apart else None
        dinput = dsums if ids is None else _sum_rows(ids, dsums, ctx.symbols)
        return None, None, dinput, None, dweight, dbias, None, *dstate


class Fp32Projection(torch.autograd.Function):
    """`projection`, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The projection (..., G*H) of x (..., D)."""
        x, weight, bias = fp32(x, weight, bias)
        check_shapes({"weight": (weight, (len(bias), x.shape[-1])), "x": (x, x.shape), "bias": (bias, (len(bias),))})
        ctx.save_for_backward(x, weight)
        y = x.new_empty(*x.shape[:-1], len(weight))
        _multiply(x, weight, y, y.shape[:-1].numel(), x.shape[-1], right_turned=True, bias=bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias, from the gradient of y (..., G*H)."""
        (x, weight), (dy,) = ctx.saved_tensors, fp32(dy)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        if dx is not None:
            _multiply(dy, weight, dx, dy.shape[:-1].numel(), len(weight))
        return dx, *_weight_gradient(x, dy, None)


def _weight_gradient(x: Tensor, dy: Tensor, skip: Tensor | None) -> tuple[Tensor, Tensor]:
    """dy^T x (G, D), summed over all steps and rows that are not skipped, and the sums of dy (G,) over all of them."""
    gradient, sums = torch.empty(dy.shape[-1], x.shape[-1]), torch.zeros(dy.shape[-1])
    _multiply(dy, x, gradient, len(sums), dy.shape[:-1].numel(), left_turned=True, skip=skip, sums=sums)
    return gradient, sums


def _multiply(
    left: Tensor,
    right: Tensor,
    out: Tensor,
    rows: int,
    depth: int,
    *,
    left_turned: bool = False,
    right_turned: bool = False,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    sums: Tensor | None = None,
) -> None:
    """Writes left (rows, depth) times right (depth, columns) to `out`; see ProductFp32 in native/calls.h."""
    if not out.numel():
        return
    native_library.call(
        _ProductFp32(
            threads=native_library.threads(),
            rows=rows,
            columns=out.shape[-1],
            depth=depth,
            left_turned=left_turned,
            right_turned=right_turned,
            left=_address(left),
            right=_address(right),
            bias=_address(bias),
            skip=_address(skip),
            out=_address(out),
            sums=_address(sums),
        )
    )


def _sum_rows(ids: Tensor, dy: Tensor, symbols: int) -> Tensor:
    """The gradient (V, G) of a table whose rows ids (T, N) were looked up, from the gradients of the rows (T, N, G)."""
    gradient = torch.zeros(symbols, dy.shape[-1])
    native_library.call(
        _StepsAddRows(
            threads=native_library.threads(),
            count=ids.numel(),
            width=dy.shape[-1],
            ids=_address(ids),
            dy=_address(dy),
            dtable=_address(gradient),
        )
    )
    return gradient
