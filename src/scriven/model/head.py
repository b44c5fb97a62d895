"""The output layer and its loss in one, for large vocabularies: logits are made and used up in small pieces.

For V = 7,431 the logits of a step take 120 MB, are read and written a dozen times, and most of the time goes there.
Here the gradients are made right after the logits, while these are still in the processor's cache, and kept instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGE = 1024  # symbols from which on it pays
VALUES_AT_ONCE = 1 << 19  # logits in a piece: 2 MB


class HeadLoss(torch.autograd.Function):
    """Cross-entropy of a linear output layer: sum of nats, and the nats of every prediction, without gradients."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, counts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """From y (M, H), weight (V, H), bias (V,), targets (M,), and what each prediction counts (M,); None is 1.

        Products are made in the type of `y`, all else in fp32.
        """
        w = weight.to(y.dtype)
        nats, dy = y.new_empty(len(y), dtype=torch.float32), torch.empty_like(y)
        dweight, dbias = torch.zeros_like(weight), torch.zeros_like(bias)
        step = max(1, VALUES_AT_ONCE // len(weight))
        for part in map(slice, range(0, len(y), step), range(step, len(y) + step, step)):
            logits, target = (y[part] @ w.T).float().add_(bias), targets[part, None]  # (m, V), (m, 1)
            chosen = logits.gather(1, target)
            total = logits.logsumexp(1, keepdim=True)
            nats[part] = (total - chosen)[:, 0]
            slope = logits.sub_(total).exp_().scatter_add_(1, target, torch.full_like(chosen, -1))
            if counts is not None:
                slope.mul_(counts[part, None])
                nats[part] *= counts[part]
            dbias += slope.sum(0)
            slope = slope.to(y.dtype)
            dy[part] = slope @ w
            dweight += slope.T @ y[part]
        ctx.save_for_backward(dy, dweight, dbias)
        ctx.mark_non_differentiable(nats)
        return nats.sum(), nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """The gradients that were kept, times that of the sum."""
        dy, dweight, dbias = ctx.saved_tensors
        return dy * slope.to(dy.dtype), dweight * slope, dbias * slope, None, None
