"""Averaged weights: the mean of all weights since the validation loss stopped falling (NT-ASGD, Merity et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from scriven.runs.tensors import check_arrays

MOST_STEPS = 1 << 53  # whole as floats too


class Average:
    """The running mean of weights (P,), which begins when no evaluation was better than those before it for a while."""

    def __init__(self, patience: int) -> None:
        """`patience` is the number of evaluations of that while."""
        self.patience = patience
        self.losses: list[float] = []
        self.mean: Tensor | None = None
        self.count = 0

    def note(self, loss: float, weights: Tensor) -> None:
        """Take an evaluation's loss into account: begins the mean where it is above the best of long enough ago."""
        before = self.losses[: -self.patience]
        self.losses.append(loss)
        if self.mean is None and before and loss > min(before):
            self.mean, self.count = weights.clone(), 1

    def add(self, weights: Tensor) -> None:
        """Take the weights after a step into the mean, where it has begun."""
        if self.mean is not None:
            self.count += 1
            self.mean.lerp_(weights, 1 / self.count)

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs, as named tensors."""
        mean = {} if self.mean is None else {"mean": self.mean}
        losses, count = (torch.tensor(values, dtype=torch.float64) for values in (self.losses, self.count))
        return mean | {"losses": losses, "count": count}

    def restore(self, tensors: dict[str, Tensor], weights: Tensor) -> None:
        """Puts back what `state` gave, of such weights (P,). Raises ValueError where it cannot be that."""
        mean, losses, count = tensors.get("mean"), tensors["losses"], tensors["count"]
        if mean is not None:
            check_arrays({"mean": mean}, {"mean": weights.shape})
        if losses.ndim != 1 or count.ndim or not (mean is not None) <= float(count) < MOST_STEPS:
            raise ValueError("the average is of no losses and steps that can be")
        self.losses, self.count = losses.tolist(), int(count)
        self.mean = None if mean is None else mean.to(weights.device)
