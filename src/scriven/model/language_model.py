"""The model: characters' ids -> embedding -> recurrent layers -> logits of the next character."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from scriven.model.cells import CELLS, LayerState, RecurrentLayer
from scriven.settings import ModelSettings

State = tuple[LayerState, ...]  # one entry a layer, each a tuple of arrays (N, H)


class CharLM(nn.Module):
    """A recurrent language model over V symbols, of which the last is `<unk>`.

    It keeps no state between calls: state in, state out.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        """Weights are drawn from torch's global generator: seed it before."""
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.unknown = vocabulary_size - 1
        self.dropout, self.residual = settings.dropout, settings.residual
        width, inputs = settings.width, settings.embedding or settings.width
        self.embedding = nn.Embedding(vocabulary_size, inputs)
        self.layers = nn.ModuleList(
            RecurrentLayer(settings.cell, width if depth else inputs, width) for depth in range(settings.layers)
        )
        norm = {"none": nn.Identity, "rms": nn.RMSNorm, "layer": nn.LayerNorm}[settings.norm]
        self.norms = nn.ModuleList(norm(width) for _ in range(settings.layers))
        self.head = nn.Linear(width, vocabulary_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def zero_state(self, rows: int) -> State:
        """The state before anything was read, for N rows."""
        return tuple(layer.zero_state(rows) for layer in self._layers())

    def forward(
        self, ids: Tensor, state: State | None = None, fresh: Tensor | None = None, dropout_seed: int = 0
    ) -> tuple[Tensor, State]:
        """Read ids (T, N) from `state` (zero where None) on; gives logits (T, N, V) in fp32 and the state after.

        Where `fresh` (T, N) is true, that row's state is zeroed before that character is read. While training,
        dropout masks are drawn from `dropout_seed` alone.
        """
        state = self.zero_state(ids.shape[1]) if state is None else state
        generator = torch.Generator(ids.device).manual_seed(dropout_seed) if self._drops() else None
        if fresh is None:
            return self._read(ids, state, generator)
        starts = [0, *(t for t in fresh.any(1).nonzero().flatten().tolist() if t), len(ids)]
        pieces: list[Tensor] = []
        for start, end in pairwise(starts):
            state = zero_rows(state, fresh[start])
            logits, state = self._read(ids[start:end], state, generator)
            pieces.append(logits)
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0], state

    def _layers(self) -> list[RecurrentLayer]:
        return [layer for layer in self.layers if isinstance(layer, RecurrentLayer)]

    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def _read(self, ids: Tensor, state: State, generator: torch.Generator | None) -> tuple[Tensor, State]:
        x = self._drop(self._embed(ids), generator)  # (T, N, D)
        after = []
        for depth, layer in enumerate(self._layers()):
            y, layer_state = layer(x if depth == 0 else self._normed(depth - 1, x), state[depth])
            y = self._drop(y, generator)
            x = x + y if self.residual and depth else y
            after.append(layer_state)
        return self.head(self._normed(-1, x)).float(), tuple(after)

    def _normed(self, depth: int, x: Tensor) -> Tensor:
        norm = self.norms[depth]
        # In fp32 also under autocast: a norm in bf16 loses digits, and torch has no fast path for mixed types.
        normed: Tensor = x if isinstance(norm, nn.Identity) else norm(x.float())
        return normed

    def _embed(self, ids: Tensor) -> Tensor:
        """Embeddings (T, N, D). `<unk>` never occurs in training, so it reads as the mean of all known symbols."""
        x = functional.embedding(ids, self.embedding.weight)
        unknown = ids == self.unknown
        if self.training or not bool(unknown.any()):
            return x
        mean = self.embedding.weight[: self.unknown].mean(0)
        return torch.where(unknown[..., None], mean, x)

    def _drop(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return x if generator is None else drop(x, self.dropout, generator)


def drop(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Inverted dropout (Srivastava et al. 2014): `share`, in steps of 1/256, of x's values zeroed, the rest scaled up.

    One random byte decides a value: eight times cheaper on a CPU than one draw a value.
    """
    limit = round(share * 256)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)
    keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= limit
    return x * keep.to(x.dtype).mul_(256 / (256 - limit))


def zero_rows(state: State, rows: Tensor) -> State:
    """The state with the rows where `rows` (N,) is true zeroed."""
    return tuple(tuple(part.masked_fill(rows[:, None], 0) for part in layer) for layer in state)


def take_rows(state: State, rows: Tensor) -> State:
    """The state of the rows whose numbers (M,) are given, in that order; copies, also of one row to many."""
    return tuple(tuple(part.index_select(0, rows) for part in layer) for layer in state)


def join_rows(states: list[State]) -> State:
    """The states of several batches as one, rows one after another."""
    return tuple(tuple(torch.cat(parts) for parts in zip(*layers, strict=True)) for layers in zip(*states, strict=True))


def detach(state: State) -> State:
    """The same state without history, so that gradients stop here."""
    return tuple(tuple(part.detach() for part in layer) for layer in state)


def parameter_count(settings: ModelSettings, vocabulary_size: int) -> int:
    """Number of trained values, without making the model."""
    gates, width, inputs = CELLS[settings.cell][2], settings.width, settings.embedding or settings.width
    layers = [gates * width * (size + width + 2) for size in [inputs, *[width] * (settings.layers - 1)]]
    norms = {"none": 0, "rms": width, "layer": 2 * width}[settings.norm] * settings.layers
    return vocabulary_size * (inputs + width + 1) + sum(layers) + norms
