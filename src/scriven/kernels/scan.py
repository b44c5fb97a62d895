"""All steps of minGRU, whose gates depend on the input alone, with gradients: as native code and in torch.

No product involves the state, so all products are computed before, for all steps at once. A step is then a few
operations per cell. Native code runs in fp32 on any processor, in one pass over the arrays. Cells are independent, so
threads divide them.
"""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scriven.kernels import native_library
from scriven.kernels.native_library import NativeStruct, fields

FEWEST_CELLS = 64  # for each thread


class _ScanForward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "steps rows cells begin end symbols bf16"),
        *fields(c_void_p, "sums ids fresh h y"),
    )


class _ScanBackward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "steps rows cells begin end bf16"),
        *fields(c_void_p, "sums ids fresh h y dy dh dsums"),
    )


def usable() -> bool:
    """Whether there is native code for this processor, and SCRIVEN_KERNELS lets it run."""
    return native_library.level() != "off"


def scan(sums: Tensor, h: Tensor, *, ids: Tensor | None = None, fresh: Tensor | None = None) -> Tensor:
    """Computes all steps of minGRU (Feng et al. 2024, equations 9 and 10 with g of appendix B): y (T, N, H).

    `sums` (T, N, 2H) are the sums k and x of each step; h (N, H) is the state before. y has the type of h.
    z = sigmoid(k), new = x + 1/2 if x >= 0 and sigmoid(x) otherwise, h = (1 - z) h + z new.
    With ids (T, N), rows are looked up in sums (V, 2H). Where fresh (T, N) is true, h of that row is zero before that
    step.

    Raises RuntimeError for ids that have no row in sums.
    """
    native = usable() and sums.device.type == "cpu" and sums.dtype in (torch.float32, torch.bfloat16)
    if native and h.dtype == torch.float32:
        y: Tensor = Scan.apply(sums, ids, fresh, h)  # type: ignore[no-untyped-call]
        return y
    sums = sums.to(h.dtype)
    return _by_torch(sums if ids is None else sums[ids], h, fresh)


def _by_torch(sums: Tensor, h: Tensor, fresh: Tensor | None) -> Tensor:
    """The same in plain torch."""
    k, x = sums.chunk(2, -1)
    steps = zip(torch.sigmoid(k), torch.where(x >= 0, x + 0.5, torch.sigmoid(x)), strict=True)
    outputs = []
    for t, (z, new) in enumerate(steps):
        if fresh is not None:
            h = h.masked_fill(fresh[t].to(h.device)[:, None], 0)
        h = torch.lerp(h, new, z)
        outputs.append(h)
    return torch.stack(outputs)


class Scan(torch.autograd.Function):
    """`scan` as native code, with its gradients. The backward pass computes the gates again instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, ids: Tensor | None, fresh: Tensor | None, h: Tensor) -> Tensor:
        """The output of every step, y (T, N, H)."""
        steps, (rows, cells) = len(sums if ids is None else ids), h.shape
        sums, h = sums.contiguous(), h.contiguous()
        ids = None if ids is None else ids.long().expand(steps, rows).contiguous()
        fresh = None if fresh is None else fresh.to("cpu", torch.bool).expand(steps, rows).contiguous()
        if sums.shape != (*((steps, rows) if ids is None else sums.shape[:1]), 2 * cells):
            raise ValueError(f"sums of shape {tuple(sums.shape)} for a state of {rows} rows and {cells} cells")
        y = h.new_empty(steps, rows, cells)
        if not (h.device.type == sums.device.type == "cpu"):
            raise ValueError(f"sums on {sums.device} and a state on {h.device}: both must be on the CPU")

        def _scan_cells(begin: int, end: int) -> None:
            native_library.call(
                _ScanForward(
                    steps=steps,
                    rows=rows,
                    cells=cells,
                    begin=begin,
                    end=end,
                    symbols=0 if ids is None else len(sums),
                    bf16=sums.dtype == torch.bfloat16,
                    sums=sums,
                    ids=ids,
                    fresh=fresh,
                    h=h,
                    y=y,
                )
            )

        native_library.parallel_for(_scan_cells, cells, FEWEST_CELLS, native_library.threads())
        ctx.save_for_backward(sums, ids, fresh, h, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all arguments, from the gradient of y (T, N, H)."""
        sums, ids, fresh, h, y = ctx.saved_tensors
        dy, dh = dy.contiguous(), torch.zeros_like(h)
        dsums = torch.empty_like(sums) if ids is None else torch.zeros_like(sums, dtype=torch.float32)
        steps, rows, cells = y.shape

        def _scan_cells(begin: int, end: int) -> None:
            native_library.call(
                _ScanBackward(
                    steps=steps,
                    rows=rows,
                    cells=cells,
                    begin=begin,
                    end=end,
                    bf16=sums.dtype == torch.bfloat16,
                    sums=sums,
                    ids=ids,
                    fresh=fresh,
                    h=h,
                    y=y,
                    dy=dy,
                    dh=dh,
                    dsums=dsums,
                )
            )

        native_library.parallel_for(_scan_cells, cells, FEWEST_CELLS, native_library.threads())
        return dsums, None, None, dh
