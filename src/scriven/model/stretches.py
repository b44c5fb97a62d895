"""Turns chunks with fresh starts into torch's packed sequences: one sequence for each stretch between two starts.

The fast recurrent functions of GPUs carry the state through all steps. With packed sequences they can start afresh in
the middle of a chunk, without a call for each such step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LayerState = tuple[Tensor, ...]


@dataclass(frozen=True)
class Stretches:
    """The S stretches of a chunk (T, N), longest first. A stretch ends at a fresh start of its row or at the end."""

    sizes: Tensor  # (longest,) the number of stretches of at least 1, 2, .. steps; on the CPU
    places: Tensor  # (T * N,) the step t and row n of each packed value, as t * N + n
    rows: Tensor  # (S,) the row of each stretch
    begun: Tensor  # (S,) whether the stretch begins with a zero state
    last: Tensor  # (N,) the last stretch of each row

    @classmethod
    def of(cls, fresh: Tensor, device: torch.device) -> Stretches:
        """Finds the stretches between fresh starts (T, N). Makes indices on the CPU, then moves them to the device."""
        fresh = fresh.cpu()
        (steps, rows), begins = fresh.shape, fresh.clone()
        begins[0] = True
        row, start = begins.T.nonzero(as_tuple=True)  # (S,), row by row
        ends = torch.cat((start[1:], start[:1]))
        ends[ends <= start] = steps  # the next stretch belongs to the next row
        lengths, order = torch.sort(ends - start, descending=True, stable=True)  # (S,)
        row, start = row[order], start[order]
        sizes = (lengths[None] > torch.arange(int(lengths[0]))[:, None]).sum(1)  # (longest,)
        step = torch.repeat_interleave(torch.arange(len(sizes)), sizes)  # (T * N,) within the stretch
        number = torch.arange(step.numel()) - (sizes.cumsum(0) - sizes)[step]  # (T * N,) of the stretch
        places = (start[number] + step) * rows + row[number]
        last = torch.empty(rows, dtype=torch.int64)
        ending = (start + lengths == steps).nonzero().flatten()
        last[row[ending]] = ending
        moved = (each.to(device, non_blocking=True) for each in (places, row, (start > 0) | fresh[0][row], last))
        return cls(sizes, *moved)

    def pack(self, x: Tensor) -> Tensor:
        """Packs x (T, N, D) into values (T * N, D)."""
        return x.flatten(0, 1).index_select(0, self.places)

    def unpack(self, y: Tensor, rows: int) -> Tensor:
        """The inverse of `pack`; returns (T, N, D)."""
        return torch.empty_like(y).index_copy(0, self.places, y).view(-1, rows, y.shape[1])

    def states_before(self, state: LayerState) -> LayerState:
        """The state (S, H) before each stretch: the row of `state` (N, H), or zeros."""
        return tuple(part.index_select(0, self.rows).masked_fill(self.begun[:, None], 0) for part in state)

    def state_after(self, states: LayerState) -> LayerState:
        """The state (N, H) at the end of the chunk, from the states (S, H) at the ends of the stretches."""
        return tuple(part.index_select(0, self.last) for part in states)
