"""Dropout in all its forms: all that is dropped in one call of the model is decided by one seed alone."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Masks:
    """What is dropped in one call of the model: drawn in the order in which it is asked for, nothing where all is off.

    What is asked for again at the same place, as the next piece of a chunk does, keeps its mask where that is one for
    the whole chunk.
    """

    def __init__(self, seed: int, device: torch.device, *, on: bool, variational: bool) -> None:
        """With `variational`, one mask (N, D) of a place serves all characters (Gal & Ghahramani 2016)."""
        self._seed, self._device = seed, device
        self._on, self._variational = on, variational
        self._kept: dict[object, Tensor] = {}

    def drop(self, x: Tensor, share: float, place: object) -> Tensor:
        """x (T, N, D) with a share of its values zeroed and the others scaled up."""
        if not (self._on and share):
            return x
        if self._variational:
            return x * self._once(place, x.shape[1:], share).to(x.dtype)
        return drop(x, share, self._generator)

    def drop_weight(self, weight: Tensor, share: float, layer: int) -> Tensor:
        """A layer's weight with a share of its values dropped (DropConnect, Wan et al. 2013; AWD-LSTM's WeightDrop)."""
        return weight * self._once(("weight", layer), weight.shape, share) if self._on and share else weight

    def drop_symbols(self, x: Tensor, ids: Tensor, size: int, share: float) -> Tensor:
        """The embeddings x (T, N, D) of ids (T, N), a share of the V symbols dropped whole (AWD-LSTM)."""
        if not (self._on and share):
            return x
        return x * self._once("symbols", torch.Size((size,)), share)[ids][..., None]

    def drop_onehot(self, x: Tensor, ids: Tensor, size: int, share: float) -> Tensor:
        """What the one-hot values (T, N, V) of ids (T, N) were looked up as, x (T, N, D), had they been dropped."""
        if not (self._on and share):
            return x
        if self._variational:
            kept = self._once("input", torch.Size((ids.shape[1], size)), share).gather(1, ids.T).T  # (T, N)
        else:
            kept = mask(ids.shape, share, self._generator)
        return x * kept[..., None]

    @cached_property
    def _generator(self) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(self._seed)

    def _once(self, place: object, shape: torch.Size, share: float) -> Tensor:
        """The one mask of a place."""
        if place not in self._kept:
            self._kept[place] = mask(shape, share, self._generator)
        return self._kept[place]


def mask(shape: torch.Size, share: float, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """What values are multiplied by: a share of them, in steps of 1/256, by 0, the others so that the mean stays.

    One random byte decides a value: eight times cheaper on a CPU than one draw a value.
    """
    limit = min(round(share * 256), 255)
    words = torch.empty((shape.numel() + 7) // 8, dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    keep = words.view(torch.uint8)[: shape.numel()].view(shape) >= limit
    return keep.to(dtype).mul_(256 / (256 - limit))


def drop(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Inverted dropout (Srivastava et al. 2014): a share of x's values zeroed, the others scaled up; see `mask`."""
    return x * mask(x.shape, share, generator, x.dtype)
