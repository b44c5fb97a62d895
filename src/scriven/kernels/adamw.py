"""The norm of a gradient and the step of AdamW, over several arrays without joining them, in native code and torch.

Native code reads the gradient once for the norm, and once more for the step, which also scales it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from ctypes import POINTER, c_double, c_float, c_int64, c_void_p, pointer
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw as torchs_adamw

from scriven.kernels import native_library
from scriven.kernels.native_library import NativeStruct, fields

BETA1, EPSILON = 0.9, 1e-8  # EPSILON is the default


class _SumSquares(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads count"),
        ("gradients", POINTER(c_void_p)),
        ("sizes", POINTER(c_int64)),
        ("sum", POINTER(c_double)),
    )


class _AdamwStep(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads count"),
        ("gradients", POINTER(c_void_p)),
        ("sizes", POINTER(c_int64)),
        *fields(c_void_p, "values mean square"),
        *fields(c_float, "scale beta1 beta2 rate root epsilon"),
    )


def norm(gradients: Sequence[Tensor]) -> float:
    """The Euclidean norm of all values of some arrays. The order of the sum does not depend on the threads."""
    if not _takes(gradients):
        return float(torch.nn.utils.get_total_norm(gradients))
    total = c_double()
    addresses, sizes = _arrays(gradients)
    native_library.call(
        _SumSquares(
            threads=native_library.threads(),
            count=len(gradients),
            gradients=addresses,
            sizes=sizes,
            sum=pointer(total),
        )
    )
    return math.sqrt(total.value) if math.isfinite(total.value) else math.nan


class AdamW:
    """AdamW (Loshchilov & Hutter 2019) for weights (P,) in fp32; weight decay is left to the caller."""

    def __init__(
        self, values: Tensor, beta2: float, epsilon: float = EPSILON, *, early: bool = False, beta1: float = BETA1
    ) -> None:
        """`values` are the weights; every step changes them in place. With `beta1` 0 there is no momentum.

        With `early`, epsilon is added to the root of the mean of squares before the bias correction. This is the
        shorter form of Kingma & Ba (2014); it makes epsilon larger in the first steps.
        """
        self.values, self.beta1, self.beta2, self._epsilon, self._early = values, beta1, beta2, epsilon, early
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.steps = values.new_zeros(())

    def step(self, gradients: Sequence[Tensor], scale: float, rate: float) -> None:
        """Makes one step. Joined in order and times `scale`, `gradients` are the gradient of the weights."""
        if not _takes(gradients):
            self._by_torch(torch.cat([gradient.flatten() for gradient in gradients]).mul_(scale), rate)
            return
        if sum(gradient.numel() for gradient in gradients) != len(self.values):
            raise ValueError(f"the gradients have another size than the {len(self.values)} weights")
        self.steps += 1
        steps, (addresses, sizes) = float(self.steps), _arrays(gradients)
        native_library.call(
            _AdamwStep(
                threads=native_library.threads(),
                count=len(gradients),
                gradients=addresses,
                sizes=sizes,
                values=self.values,
                mean=self.mean,
                square=self.square,
                scale=scale,
                beta1=self.beta1,
                beta2=self.beta2,
                rate=rate / (1 - self.beta1**steps),
                root=1 / math.sqrt(1 - self.beta2**steps),
                epsilon=self._epsilon_at(steps),
            )
        )

    def state(self) -> dict[str, Tensor]:
        """The optimizer's state, for `restore`."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores a state that `state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])

    def _epsilon_at(self, step: float) -> float:
        """The epsilon that is added to the corrected root in step number `step`, from 1."""
        return self._epsilon / (math.sqrt(1 - self.beta2**step) if self._early else 1)

    def _by_torch(self, gradient: Tensor, rate: float) -> None:
        arrays = [self.values], [gradient], [self.mean], [self.square]
        torchs_adamw(
            *arrays,
            *([], [self.steps]),
            fused=self.values.device.type != "mps",
            amsgrad=False,
            maximize=False,
            lr=rate,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=0.0,
            eps=self._epsilon_at(float(self.steps) + 1),
        )


def _takes(gradients: Sequence[Tensor]) -> bool:
    """Whether native code can take these arrays; torch takes all others."""
    on_cpu = all(each.device.type == "cpu" and each.dtype == torch.float32 for each in gradients)
    return native_library.level() != "off" and on_cpu


def _arrays(gradients: Sequence[Tensor]) -> tuple[Any, Any]:
    """The addresses and sizes of gradients. Raises ValueError if one is not contiguous."""
    if not all(gradient.is_contiguous() for gradient in gradients):
        raise ValueError("the gradients must be contiguous")
    count = len(gradients)
    addresses = (c_void_p * count)(*(gradient.data_ptr() for gradient in gradients))
    return addresses, (c_int64 * count)(*(gradient.numel() for gradient in gradients))
