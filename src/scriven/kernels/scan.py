"""All steps of minGRU, whose gates depend on the input alone, with gradients: as native code and in torch.

No product involves the state, so all products are computed before, for all steps at once. A step is then a few
operations per cell. Native code runs in fp32 on any processor, in one pass over the arrays. Cells are independent, so
threads divide them.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scriven.kernels import native_library
from scriven.kernels.native_library import address as _address

FEWEST_CELLS = 64  # for each thread


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
        symbols = 0 if ids is None else len(sums)
        if not (h.device.type == sums.device.type == "cpu"):
            raise ValueError(f"sums on {sums.device} and a state on {h.device}: both must be on the CPU")
        arguments = _address(sums), _address(ids), symbols, _address(fresh), _address(h), _address(y)
        arrays = (sums, ids, fresh, h, y)
        _by_cells("scriven_scan_forward", (steps, rows, cells), sums.dtype, arrays, *arguments)
        ctx.save_for_backward(sums, ids, fresh, h, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all arguments, from the gradient of y (T, N, H)."""
        sums, ids, fresh, h, y = ctx.saved_tensors
        dy, dh = dy.contiguous(), torch.zeros_like(h)
        dsums = torch.empty_like(sums) if ids is None else torch.zeros_like(sums, dtype=torch.float32)
        arrays = (sums, ids, fresh, h, y, dy, dh, dsums)
        _by_cells("scriven_scan_backward", tuple(y.shape), sums.dtype, arrays, *map(_address, arrays))
        return dsums, None, None, dh


def _by_cells(name: str, shape: tuple[int, ...], kind: torch.dtype, arrays: object, *addresses: int | None) -> None:
    """Calls a native function for all cells of the arrays, divided among threads. `shape` is T, N, H."""
    function = _function(name)

    def _share(begin: int, end: int) -> None:
        function(*shape, begin, end, kind == torch.bfloat16, *addresses)

    native_library.parallel_for(_share, shape[-1], FEWEST_CELLS, native_library.threads(), arrays)


TYPES = {
    "scriven_scan_forward": [c_int64] * 6 + [c_void_p] * 2 + [c_int64] + [c_void_p] * 3,
    "scriven_scan_backward": [c_int64] * 6 + [c_void_p] * 8,
}


def _function(name: str) -> Callable[..., int]:
    return native_library.declare(name, TYPES[name])
