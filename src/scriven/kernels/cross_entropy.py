"""Fused output layer and cross-entropy, as native code with gradients, in fp32 or bf16.

The logits are never stored. The forward pass keeps the softmax's values before the division by their sum, in the number
format of the products. The backward pass turns them into the gradients of the logits in place.
"""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scriven.kernels import native_library
from scriven.kernels.native_library import NativeStruct, fields
from scriven.kernels.recurrent import as_dtype, check_shapes, is_bf16


class _CrossEntropyForward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads bf16 rows inputs symbols"),
        *fields(c_void_p, "y weight bias targets losses kept factors"),
    )


class _CrossEntropyBackward(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads bf16 rows inputs symbols"),
        *fields(c_void_p, "y weight targets factors dlosses kept dy dweight dbias"),
    )


def losses(y: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, dtype: torch.dtype) -> Tensor:
    """The losses in nats (...), in fp32, of predicting symbols `targets` (...) from y (..., H).

    A loss is -log softmax(y W' + bias) of the target, with weight W (V, H) and bias (V,). Products are of values in
    `dtype`, sums are in fp32. Raises RuntimeError for a target that is not one of the V symbols.
    """
    found: Tensor = CrossEntropy.apply(y, weight, bias, targets, dtype, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return found


class CrossEntropy(torch.autograd.Function):
    """`losses`, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype, keep: bool
    ) -> Tensor:
        """The losses (...)."""
        (*_, inputs), symbols, rows = y.shape, len(weight), targets.numel()
        y, weight, bias = as_dtype(y, dtype), as_dtype(weight, torch.float32), as_dtype(bias, torch.float32)
        targets = targets.long().contiguous()
        check_shapes({"y": (y, y.shape), "weight": (weight, (symbols, inputs)), "targets": (targets, y.shape[:-1])})
        check_shapes({} if bias is None else {"bias": (bias, (symbols,))})
        found = torch.empty(targets.shape)
        width_of = native_library.declare("scriven_cross_entropy_width", [c_int64], c_int64)
        kept = y.new_empty(rows, width_of(symbols)) if keep else None
        chunks = native_library.declare("scriven_cross_entropy_chunks", [c_int64] * 3, c_int64)(
            is_bf16(y), inputs, symbols
        )
        factors = torch.empty(rows, chunks)
        native_library.call(
            _CrossEntropyForward(
                threads=native_library.threads(),
                bf16=is_bf16(y),
                rows=rows,
                inputs=inputs,
                symbols=symbols,
                y=y,
                weight=weight,
                bias=bias,
                targets=targets,
                losses=found,
                kept=kept,
                factors=factors,
            )
        )
        ctx.biased, ctx.spent = bias is not None, False
        ctx.save_for_backward(y, weight, targets, kept, factors)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlosses: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of y (..., H), weight (V, H) and bias (V,), given those of the losses (...)."""
        y, weight, targets, kept, factors = ctx.saved_tensors
        if ctx.spent:
            raise RuntimeError("gradients of these losses can be computed only once, as they overwrite saved values")
        ctx.spent = True
        symbols, dy, dlosses = len(weight), torch.empty_like(y), dlosses.float().contiguous()
        dweight, dbias = torch.empty(kept.shape[1], y.shape[-1]), torch.empty(kept.shape[1])
        native_library.call(
            _CrossEntropyBackward(
                threads=native_library.threads(),
                bf16=is_bf16(y),
                rows=len(kept),
                inputs=y.shape[-1],
                symbols=symbols,
                y=y,
                weight=weight,
                targets=targets,
                factors=factors,
                dlosses=dlosses,
                kept=kept,
                dy=dy,
                dweight=dweight,
                dbias=dbias,
            )
        )
        return dy, dweight[:symbols], dbias[:symbols] if ctx.biased else None, None, None, None
