"""Fused output layer and cross-entropy, as native code in bf16 with gradients, for processors that multiply bf16.

Neither the logits nor their gradients are ever stored in fp32. The forward pass keeps the softmax's values before the
division by their sum, in bf16. The backward pass turns them into the gradients of the logits in place.
"""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scriven.kernels import native_library, recurrent
from scriven.kernels.native_library import NativeStruct, fields
from scriven.kernels.native_library import address as _address

COLUMNS_PER_GROUP = 32  # columns that the native code works on together

usable = recurrent.usable


class _CrossEntropyForward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads rows inputs symbols"),
        *fields(c_void_p, "y weight bias targets losses kept factors"),
    )


class _CrossEntropyBackward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads rows inputs symbols"),
        *fields(c_void_p, "weight targets factors dlosses kept dy"),
    )


def losses(y: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The losses in nats (M,), in fp32, of predicting symbols `targets` (M,) from y (M, H).

    A loss is -log softmax(y W' + bias) of the target, with weight W (V, H) and bias (V,). Products are of bf16 values,
    sums are in fp32. Raises RuntimeError for a target that is not one of the V symbols.
    """
    found: Tensor = CrossEntropy.apply(y, weight, bias, targets, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return found


class CrossEntropy(torch.autograd.Function):
    """`losses`, with its gradients."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, keep: bool) -> Tensor:
        """The losses (M,)."""
        (rows, inputs), symbols = y.shape, len(weight)
        y, weight = y.to(torch.bfloat16).contiguous(), weight.float().contiguous()
        bias = None if bias is None else bias.float().contiguous()
        targets = targets.long().contiguous()
        _check({"y": (y, y.shape), "weight": (weight, (symbols, inputs)), "targets": (targets, (rows,))})
        _check({} if bias is None else {"bias": (bias, (symbols,))})
        found = torch.empty(rows)
        kept = y.new_empty(rows, -(-symbols // COLUMNS_PER_GROUP) * COLUMNS_PER_GROUP) if keep else None
        chunks = native_library.declare("scriven_cross_entropy_chunks", [c_int64] * 2, c_int64)(inputs, symbols)
        factors = torch.empty(rows, chunks)
        native_library.call(
            _CrossEntropyForward(
                threads=native_library.threads(),
                rows=rows,
                inputs=inputs,
                symbols=symbols,
                y=_address(y),
                weight=_address(weight),
                bias=_address(bias),
                targets=_address(targets),
                losses=_address(found),
                kept=_address(kept),
                factors=_address(factors),
            )
        )
        ctx.biased, ctx.spent = bias is not None, False
        ctx.save_for_backward(y, weight, targets, kept, factors)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlosses: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of y (M, H), weight (V, H) and bias (V,), given those of the losses (M,)."""
        y, weight, targets, kept, factors = ctx.saved_tensors
        if ctx.spent:
            raise RuntimeError("gradients of these losses can be computed only once, as they overwrite saved values")
        ctx.spent = True
        symbols, dy, dlosses = len(weight), torch.empty_like(y), dlosses.float().contiguous()
        native_library.call(
            _CrossEntropyBackward(
                threads=native_library.threads(),
                rows=len(y),
                inputs=y.shape[1],
                symbols=symbols,
                weight=_address(weight),
                targets=_address(targets),
                factors=_address(factors),
                dlosses=_address(dlosses),
                kept=_address(kept),
                dy=_address(dy),
            )
        )
        dbias = torch.zeros(kept.shape[1])
        dweight = recurrent.weight_gradient(y, kept, None, dbias)[:symbols]
        return dy, dweight, dbias[:symbols] if ctx.biased else None, None, None


def _check(arrays: dict[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    """Raises ValueError for arrays that native code cannot take."""
    for name, (array, wanted) in arrays.items():
        if array.shape != wanted or array.device.type != "cpu" or 0 in wanted:
            raise ValueError(f"{name} of shape {tuple(array.shape)} on {array.device}, not {tuple(wanted)} on the CPU")
