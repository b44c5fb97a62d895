"""The language model: ids of characters -> embedding -> recurrent layers -> logits of the next character."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scriven import counter_rng
from scriven.errors import UsageError
from scriven.kernels import cross_entropy
from scriven.model.backends import Backend, choose_backend, current_backend
from scriven.model.cells import CELLS, Layer, Masks, make_layer
from scriven.model.reference_cells import LayerState, seeded_draws
from scriven.model.shapes import layer_widths
from scriven.settings import ModelSettings

State = tuple[LayerState, ...]  # one entry per layer, each a tuple of arrays (N, H)


class CharLM(nn.Module):
    """A recurrent language model over V symbols; the last one is `<unk>`.

    It keeps no state between calls: the state is an argument and a result. A `backend` says what computes a call.
    Without one, it is chosen by the weights and by torch's autocast, as for any module of torch.
    """

    is_empty = False  # whether it has no weights
    embedding: nn.Embedding | None  # None when the input is one-hot
    head: nn.Linear | None  # None when the last layer gives the logits

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        """Draws the weights from torch's global generator, so seed it before.

        Raises UsageError if the settings contradict each other, or are those of several members.
        """
        super().__init__()
        if settings.members > 1:
            raise UsageError(f"a CharLM is one network, and model.members is {settings.members}; drop it, or give 1")
        self.settings, self.vocabulary_size = settings, vocabulary_size
        self.unknown = vocabulary_size - 1
        inputs, *widths = layer_widths(settings, vocabulary_size)
        headless = settings.head == "none"
        self.embedding = None if settings.input == "onehot" else nn.Embedding(vocabulary_size, inputs)
        self.layers = nn.ModuleList(
            make_layer(settings, before, width, depth)
            for depth, (before, width) in enumerate(pairwise((inputs, *widths)))
        )
        norm = {"none": nn.Identity, "rms": nn.RMSNorm, "layer": nn.LayerNorm}[settings.norm]
        self.norms = nn.ModuleList(norm(width) for width in widths[: len(widths) - headless])
        self.head = None if headless else nn.Linear(widths[-1], vocabulary_size)
        self._scale_ends()
        if self.embedding is not None:
            if settings.tied and self.head is not None:
                self.embedding.weight = self.head.weight  # small, as drawn for the output layer
            self.embedding.weight.requires_grad = not settings.freeze_embedding

    @torch.no_grad()
    def _scale_ends(self) -> None:
        """Scales the initial weights of the embedding and the output layer as the settings say."""
        settings = self.settings
        if self.embedding is not None and settings.embedding_initial == "uniform":
            nn.init.uniform_(self.embedding.weight, -settings.embedding_scale, settings.embedding_scale)
        elif self.embedding is not None:
            self.embedding.weight.mul_(settings.embedding_scale)
        for parameter in () if self.head is None else self.head.parameters():
            parameter.mul_(settings.output_scale)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def networks(self) -> list[CharLM]:
        """The networks that it consists of: the model itself, or its members."""
        return [self]

    def zero_state(self, rows: int) -> State:
        """The state before anything was read, for N rows."""
        return tuple(layer.zero_state(rows) for layer in self._layers())

    def current_backend(self) -> Backend:
        """Chooses what computes a call of the model by the current state of torch."""
        return current_backend(self.settings, next(self.networks[0].layers.parameters()))

    def forward(
        self,
        ids: Tensor,
        state: State | None = None,
        fresh: Tensor | None = None,
        dropout_seed: int = 0,
        backend: Backend | None = None,
    ) -> tuple[Tensor, State]:
        """Reads ids (T, N) from `state` on (None means zeros). Returns logits (T, N, V) in fp32, and the state after.

        If `fresh` (T, N) is true, the state of that row is zeroed before that character is read. It may be on the CPU,
        so that no device has to wait when it is looked at. In training, dropout depends on `dropout_seed` alone.
        """
        backend = backend or self.current_backend()
        _, y, state = self.read(ids, state, fresh, dropout_seed, backend)
        return self.logits(y, backend), state

    def read(
        self,
        ids: Tensor,
        state: State | None = None,
        fresh: Tensor | None = None,
        dropout_seed: int = 0,
        backend: Backend | None = None,
    ) -> tuple[Tensor, Tensor, State]:
        """The first part of `forward`; returns (raw, y, state).

        raw (T, N, H) is the output of the last layer. y (T, N, H) is the argument for `logits`: raw after dropout, plus
        the residual input. Under autocast both may be in its number format. Members have their outputs side by side,
        (T, N, M * H), and each draws its own dropout.
        """
        backend = backend or self.current_backend()
        state = self.zero_state(ids.shape[1]) if state is None else state
        if fresh is not None and not backend.takes_fresh:
            state = zero_rows(state, fresh[0].to(ids.device, non_blocking=True))
            fresh = fresh if fresh[1:].any() else None  # torch's functions are faster without it
        raws, outputs, after = list[Tensor](), list[Tensor](), list[LayerState]()
        own_draws = self.training and self.settings.cell not in CELLS
        for number, network in enumerate(self.networks):  # in this function, since each call on the way takes time
            seed = member_seed(dropout_seed, number)
            masks = Masks(seed, ids.device, on=self.training, variational=self.settings.variational)
            folded = backend.takes_ids and network._folds(ids)
            torchs = nullcontext() if backend.all_native else backend.context()
            with torchs, seeded_draws(seed, ids.device) if own_draws else nullcontext():
                x = raw = network._symbols(masks) if folded else network._embed(ids, masks)  # (V, D) or (T, N, D)
                for depth, layer in enumerate(network._layers()):
                    weight_hh = layer.recurrent_weight
                    if weight_hh is not None:
                        weight_hh = masks.drop_weight(weight_hh, self.settings.weight_drop, depth)
                    normed = x if depth == 0 else network._normalize(depth - 1, x)
                    x_ids = ids if folded and depth == 0 else None
                    before = state[len(after)]
                    raw, layer_state = layer(normed, before, backend, weight_hh=weight_hh, ids=x_ids, fresh=fresh)
                    y = masks.drop(raw, network._dropout(depth), depth)
                    x = x + y if self.settings.residual and depth else y
                    after.append(layer_state)
            raws.append(raw)
            outputs.append(x)
        return _side_by_side(raws, ids), _side_by_side(outputs, ids), tuple(after)

    def logits(self, y: Tensor, backend: Backend | None = None) -> Tensor:
        """The second part of `forward`: logits (T, N, V) in fp32 from y (T, N, H), for any steps and rows."""
        with (backend or self.current_backend()).context():
            logits: Tensor = y if self.head is None else self.head(self._normalize(-1, y))
            return logits.float()

    def losses(self, y: Tensor, targets: Tensor, backend: Backend | None = None) -> Tensor:
        """The losses in nats (T, N), in fp32, of predicting targets (T, N) from y (T, N, H)."""
        backend = backend or self.current_backend()
        if self.head is not None and backend.native:
            normed, weight, bias = self._normalize(-1, y), self.head.weight, self.head.bias
            return cross_entropy.losses(normed, weight, bias, targets, dtype=backend.native)
        with backend.context():
            logits = self.logits(y, backend).flatten(0, 1)  # (T * N, V)
            return functional.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)

    def _layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def _dropout(self, depth: int) -> float:
        """Returns the share of a layer's output to drop; 0 for the logits of a last layer without a head."""
        if depth < len(self.layers) - 1:
            return self.settings.dropout
        return self.settings.output_dropout if self.head is not None else 0.0

    def _normalize(self, depth: int, x: Tensor) -> Tensor:
        norm = self.norms[depth]
        if isinstance(norm, nn.Identity):
            return x
        x = x.float()  # even under autocast: a norm in bf16 loses digits, and torch has no fast path for mixed types
        if isinstance(norm, nn.LayerNorm) and x.device.type == "cpu":
            # Torch sums the gradients of the norm's own weights in as many parts as there are threads.
            return norm.bias.addcmul(functional.layer_norm(x, norm.normalized_shape, eps=norm.eps), norm.weight)
        normed: Tensor = norm(x)
        return normed

    def _folds(self, ids: Tensor) -> bool:
        """Whether it is faster to multiply the first layer's weights with all V symbols than with all characters."""
        dropped = self.training and self.settings.input_dropout  # it differs for every character
        return not dropped and 2 * self.vocabulary_size <= ids.numel()

    def _symbols(self, masks: Masks) -> Tensor:
        """The input of the first layer for each symbol: embeddings (V, D) or columns (V, G*H); see `_embed`."""
        size = self.vocabulary_size
        table: Tensor = self._layers()[0].columns if self.embedding is None else self.embedding.weight
        known = table[: self.unknown]
        table = torch.cat((known, known.mean(0, keepdim=True)))
        return masks.drop_symbols(table, slice(None), size, self.settings.embedding_dropout)

    def _embed(self, ids: Tensor, masks: Masks) -> Tensor:
        """The input of the first layer: embeddings (T, N, D), or columns (T, N, G*H) of a one-hot layer's weights.

        Training has few or no unknown symbols, so `<unk>` is read as the mean of all others.
        """
        size, settings = self.vocabulary_size, self.settings
        table: Tensor = self._layers()[0].columns if self.embedding is None else self.embedding.weight  # (V, D)
        # Looking up strided rows is slow, and so is copying a large table for a few of them.
        x = functional.embedding(ids, table.contiguous() if ids.numel() >= size else table)
        unknown = ids == self.unknown
        if ids.device.type != "cpu" or bool(unknown.any()):  # looking at the values would make another device wait
            x = torch.where(unknown[..., None], table[: self.unknown].mean(0), x)
        x = masks.drop_symbols(x, ids, size, settings.embedding_dropout)
        if self.embedding is None:
            return masks.drop_onehot(x, ids, size, settings.input_dropout)
        return masks.drop(x, settings.input_dropout, "input")


class Ensemble(CharLM):
    """A language model whose M members read the same ids. Its logits are the mean of theirs, and so are its losses.

    Its state has the layers of all members, one member after the other; what `read` gives has their outputs side by
    side, (T, N, M * H).
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        """Draws the weights of one member after the other, the first one's as for a model alone.

        Raises UsageError if the settings contradict each other.
        """
        nn.Module.__init__(self)
        self.settings, self.vocabulary_size, self.unknown = settings, vocabulary_size, vocabulary_size - 1
        self.members = nn.ModuleList(CharLM(settings.of_member, vocabulary_size) for _ in range(settings.members))

    @property
    def networks(self) -> list[CharLM]:
        """The members."""
        return [each for each in self.members if isinstance(each, CharLM)]

    def zero_state(self, rows: int) -> State:
        """The state before anything was read, for N rows."""
        return tuple(layer for each in self.networks for layer in each.zero_state(rows))

    def logits(self, y: Tensor, backend: Backend | None = None) -> Tensor:
        """The mean of the members' logits, (T, N, V) in fp32, from y (T, N, M * H)."""
        return self._mean([each.logits(part, backend) for each, part in self._parts(y)])

    def losses(self, y: Tensor, targets: Tensor, backend: Backend | None = None) -> Tensor:
        """The mean of the members' losses in nats (T, N), not the loss of the mean of their logits."""
        return self._mean([each.losses(part, targets, backend) for each, part in self._parts(y)])

    def _parts(self, y: Tensor) -> list[tuple[CharLM, Tensor]]:
        """Returns each member with its own outputs (T, N, H), from those of all (T, N, M * H)."""
        parts = [part.contiguous() for part in y.chunk(len(self.members), -1)]
        return list(zip(self.networks, parts, strict=True))

    def _mean(self, values: list[Tensor]) -> Tensor:
        return torch.stack(values).mean(0)


class NoNetwork(CharLM):
    """A model without layers and weights, to which all symbols are equally likely: what counts alone are mixed with."""

    is_empty = True

    def __init__(self, settings: ModelSettings, vocabulary_size: int) -> None:
        """Takes the settings and the number of symbols V."""
        nn.Module.__init__(self)
        self.settings, self.vocabulary_size, self.unknown = settings, vocabulary_size, vocabulary_size - 1

    @property
    def networks(self) -> list[CharLM]:
        """No network."""
        return []

    @property
    def device(self) -> torch.device:
        """The CPU, which counts are on."""
        return torch.device("cpu")

    def zero_state(self, rows: int) -> State:
        """The state of no layers."""
        return ()

    def current_backend(self) -> Backend:
        """The backend of the CPU, which has nothing to compute."""
        return choose_backend(self.settings, self.device, "fp32")

    def logits(self, y: Tensor, backend: Backend | None = None) -> Tensor:
        """Returns zeros (T, N, V)."""
        return torch.zeros(*y.shape[:-1], self.vocabulary_size)


def _side_by_side(parts: list[Tensor], ids: Tensor) -> Tensor:
    """Returns the outputs (T, N, H) of networks that read ids (T, N) as one array, (T, N, M * H)."""
    if not parts:
        return torch.empty(*ids.shape, 0)
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def member_seed(seed: int, number: int) -> int:
    """Returns the seed of a member's dropout, made from the model's seed; the first member has the same."""
    return int(counter_rng.seeds(seed, np.array([number]))[0] >> np.uint64(8)) if number else seed


def make_model(settings: ModelSettings, vocabulary_size: int) -> CharLM:
    """Makes a model of the kind in the settings. Raises UsageError if they contradict each other."""
    if settings.kind == "counts":
        return NoNetwork(settings, vocabulary_size)
    return (CharLM if settings.members == 1 else Ensemble)(settings, vocabulary_size)


def zero_rows(state: State, rows: Tensor) -> State:
    """The state with zeros in the rows where `rows` (N,) is true."""
    return tuple(tuple(part.masked_fill(rows[:, None], 0) for part in layer) for layer in state)


def take_rows(state: State, rows: Tensor) -> State:
    """Copies the rows with these numbers (M,) from a state, in that order; a row may be copied many times."""
    return tuple(tuple(part.index_select(0, rows) for part in layer) for layer in state)


def join_rows(states: list[State]) -> State:
    """Joins the states of several batches into one, row after row."""
    return tuple(tuple(torch.cat(parts) for parts in zip(*layers, strict=True)) for layers in zip(*states, strict=True))


def detach(state: State) -> State:
    """The same state, detached so that gradients stop here."""
    return tuple(tuple(part.detach() for part in layer) for layer in state)
