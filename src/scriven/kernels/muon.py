"""Muon's update of matrices (Jordan et al. 2024), in torch, and as native code in fp32 or bf16."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from scriven.kernels import native_library, recurrent
from scriven.kernels.native_library import NativeStruct, fields

# The quintic iteration of Jordan et al. 2024 (Muon). It does not converge to 1, but gets near 1 in few steps.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# The numbers of steps between new computations of the Gram matrix. Each step makes its rounding errors near zero 12
# times as large. With three steps at once, gradients of nearly rank one, such as the first ones, gave updates 300 times
# too large.
NEWTON_SCHULZ_STEPS = (2, 2, 1)
EPSILON = 1e-7


class _MuonUpdate(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads bf16 count rows columns turns"),
        ("steps", POINTER(c_int64)),
        *fields(c_float, "scale momentum epsilon a b c"),
        *fields(POINTER(c_void_p), "gradients momenta updates"),
    )


class _MuonApply(NativeStruct):
    _fields_ = (
        *fields(c_int64, "threads bf16 count size"),
        *fields(c_float, "keep rate"),
        *fields(POINTER(c_void_p), "updates weights"),
    )


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearly orthogonal matrix with the singular vectors of `matrix` (R, C), computed in `dtype`.

    Makes five steps of the Newton-Schulz iteration X <- XP, P = aI + bA + cA^2, with A = X'X on the shorter side. X is
    multiplied only three times. The other steps are made on the small matrix, A <- APP, as all these matrices commute.
    """
    tall = matrix.shape[0] >= matrix.shape[1]
    x: Tensor = (matrix if tall else matrix.T).to(dtype)
    x = x / (x.norm() + EPSILON)
    for steps in NEWTON_SCHULZ_STEPS:
        x = x @ _factor(x.T @ x, steps)
    return x if tall else x.T


def _factor(gram: Tensor, steps: int) -> Tensor:
    """The product of the matrices P of `steps` steps of `orthogonalize`, from the Gram matrix A before them."""
    factor = power = _polynomial(gram)
    for _ in range(steps - 1):
        gram = (gram @ power) @ power
        power = _polynomial(gram)
        factor = factor @ power
    return factor


def _polynomial(gram: Tensor) -> Tensor:
    a, b, c = NEWTON_SCHULZ
    result = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal().add_(a)
    return result


def usable(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether native code can compute updates of this type on this device."""
    return device.type == "cpu" and recurrent.usable(dtype)


def update(
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    updates: Sequence[Tensor | None],
    scale: float,
    momentum: float,
    *,
    native: bool,
) -> None:
    """Updates the momenta of matrices by their gradients times `scale`, and writes the updates that are not None.

    An update is the orthogonalised Nesterov momentum, as in torch.optim.Muon, computed in its own number format. Native
    code takes fp32 arrays on the CPU. Its results are the same bits for any number of threads.
    """
    if native:
        for chosen in _alike(gradients):
            own = [gradients[i] for i in chosen], [momenta[i] for i in chosen], [updates[i] for i in chosen]
            _update_natively(*own, scale, momentum)
        return
    for gradient, moved, made in zip(gradients, momenta, updates, strict=True):
        new = gradient.mul(scale * (1 - momentum))
        moved.mul_(momentum).add_(new)
        if made is not None:
            made.copy_(orthogonalize(new.add_(moved, alpha=momentum), made.dtype))


def apply(updates: Sequence[Tensor], matrices: Sequence[Tensor], keep: float, rate: float, *, native: bool) -> None:
    """Multiplies each matrix (R, C) by `keep`, and subtracts its update times rate * sqrt(max(1, R / C))."""
    if native:
        for chosen in _alike(matrices):
            _apply_natively([updates[i] for i in chosen], [matrices[i] for i in chosen], keep, rate)
        return
    for made, matrix in zip(updates, matrices, strict=True):
        matrix.mul_(keep).add_(made, alpha=-rate * _rate(matrix))


def _rate(matrix: Tensor) -> float:
    return math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))


def _alike(matrices: Sequence[Tensor]) -> list[list[int]]:
    """Groups the indices of matrices by shape."""
    places: dict[torch.Size, list[int]] = {}
    for place, matrix in enumerate(matrices):
        places.setdefault(matrix.shape, []).append(place)
    return list(places.values())


def _update_natively(
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    updates: Sequence[Tensor | None],
    scale: float,
    momentum: float,
) -> None:
    shape, (a, b, c) = gradients[0].shape, NEWTON_SCHULZ
    dtype = next((each.dtype for each in updates if each is not None), torch.float32)  # without updates, any will do
    native_library.call(
        _MuonUpdate(
            threads=native_library.threads(),
            bf16=dtype == torch.bfloat16,
            count=len(gradients),
            rows=shape[0],
            columns=shape[1],
            turns=len(NEWTON_SCHULZ_STEPS),
            steps=(c_int64 * len(NEWTON_SCHULZ_STEPS))(*NEWTON_SCHULZ_STEPS),
            scale=scale,
            momentum=momentum,
            epsilon=EPSILON,
            a=a,
            b=b,
            c=c,
            gradients=_addresses(gradients, shape),
            momenta=_addresses(momenta, shape),
            updates=_addresses(updates, shape, dtype),
        )
    )


def _apply_natively(updates: Sequence[Tensor], matrices: Sequence[Tensor], keep: float, rate: float) -> None:
    shape = matrices[0].shape
    native_library.call(
        _MuonApply(
            threads=native_library.threads(),
            bf16=updates[0].dtype == torch.bfloat16,
            count=len(matrices),
            size=shape.numel(),
            keep=keep,
            rate=rate * _rate(matrices[0]),
            updates=_addresses(updates, shape, updates[0].dtype),
            weights=_addresses(matrices, shape),
        )
    )


def _addresses(arrays: Sequence[Tensor | None], shape: torch.Size, dtype: torch.dtype = torch.float32) -> Any:
    """The addresses of matrices. Raises ValueError for matrices that native code cannot take."""
    for array in arrays:
        if array is not None and not (array.shape == shape and array.dtype == dtype and array.is_contiguous()):
            raise ValueError(f"an array is {array.dtype} {tuple(array.shape)}, not contiguous {dtype} {tuple(shape)}")
    return (c_void_p * len(arrays))(*map(native_library.address, arrays))
