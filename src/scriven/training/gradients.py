"""Gradients of a step's batches, over all groups and workers, with their losses and counts.

They are clipped in optimizer.py, once they are summed.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scriven.arrays import Float32s, Ids
from scriven.batches import Batch, Cursor
from scriven.distributed.collectives import ProcessGroup
from scriven.distributed.rendezvous import WorkerJob
from scriven.loss import Loss
from scriven.model import CharLM, State, choose_backend
from scriven.model.language_model import detach, join_rows, take_rows
from scriven.model.shapes import training_flops
from scriven.runs import Checkpoint, load_weights
from scriven.runs.checkpoints import folder_name
from scriven.settings import Settings
from scriven.training.optimizer import Average, FlatWeights, Optimizer
from scriven.training.state import load_recurrent_states, with_prefix
from scriven.training.warm_start import load_embeddings, warm_started_model
from scriven.vocabulary import Vocabulary


@dataclass(frozen=True)
class GroupSums:
    """The sums of a step over the predictions of one group, or of all groups."""

    nats: float = 0.0  # surprisal of characters and of the ends of documents
    end_nats: float = 0.0  # of the ends only
    predictions: float = 0.0  # of characters and ends, as far as they count
    ends: float = 0.0
    characters_read: float = 0.0

    def to_row(self) -> list[float]:
        """Returns the sums as numbers, to be added over all groups."""
        return list(vars(self).values())

    @classmethod
    def from_row(cls, row: Sequence[float]) -> GroupSums:
        """Returns the sums that `to_row` gave as numbers."""
        return cls(*row)

    @property
    def loss(self) -> Loss:
        """The loss of the characters and of the ends of documents."""
        ends, characters = int(self.ends), int(self.predictions) - int(self.ends)
        return Loss(self.nats - self.end_nats, characters, ends=ends, end_nats=self.end_nats)


@dataclass(frozen=True)
class Control:
    """What rank 0 decides for all workers in every step."""

    progress: float = 0.0  # 0..1 of a time budget or a replay; 0 for other budgets
    signal: int = 0  # number of the signal that asks to stop, or 0
    save: bool = False  # whether the clock asks for a save


@dataclass(frozen=True)
class StepGradients:
    """The gradients of a step's batches, summed over all groups and workers."""

    gradients: list[Tensor]  # of the sum of all losses in nats, one per parameter
    sums: GroupSums  # of all groups
    control: Control
    cursor: Cursor  # after the batches
    waited: float  # seconds that the step waited for its batches


@dataclass(frozen=True)
class GroupRows:
    """One group's rows of a batch."""

    ids: Tensor  # (T, N), on the device
    fresh: Tensor | None  # (T, N), on the CPU
    weights: Float32s | None  # (T, N)
    since: int  # the first character that counts
    targets: Ids  # (t, N), from that character on


class GradientStep:
    """Computes one worker's gradients of every step, and keeps the recurrent states of its groups."""

    def __init__(
        self, settings: Settings, workers: ProcessGroup, model: CharLM, weights: FlatWeights, boundary: int | None
    ) -> None:
        """`boundary` is the symbol that ends documents. Its losses are counted separately."""
        self.settings, self.workers, self.model, self.weights = settings, workers, model, weights
        self.boundary, self.device = boundary, model.device
        training = settings.training
        self.backend = choose_backend(settings.model, self.device, training.precision, learns=True)
        self.penalised = bool(training.activation_penalty or training.slowness_penalty)
        reader = settings.reader
        predicted = 1 / reader.length if reader.kind == "windows" and reader.loss == "last" else 1.0
        self.flops = training_flops(settings.model, model.vocabulary_size, predicted)  # per symbol
        own = workers.owned_range(training.groups)
        self.groups = len(own)
        self.rows = settings.reader.batch // training.groups  # per group
        self.lanes = range(own.start * self.rows, own.stop * self.rows)
        self.states: list[State] = [model.zero_state(self.rows)] * self.groups
        # Each group's gradients are one row. The gradients of a step with a single backward pass need no copy.
        alone = self.groups * training.accumulate == 1
        self.message = None if alone else torch.empty(self.groups, len(weights.values), device=self.device)  # (G, P)

    def compute(
        self, batches: Iterator[tuple[Batch, Cursor]], step: int, decide: Callable[[], Control]
    ) -> StepGradients:
        """Computes the gradients of step number `step` from all of its batches; `decide()` gives rank 0's control.

        Gradients and sums are those of all groups, added in a fixed order.
        """
        if not self.model.training:
            self.model.train()
        waited = 0.0
        nats: list[list[Tensor]] = [[] for _ in range(self.groups)]  # (2,) each, on the device
        counts = [GroupSums()] * self.groups
        for number in range(self.settings.training.accumulate):
            begun = time.monotonic()
            batch, cursor = next(batches)
            waited += time.monotonic() - begun
            for group in range(self.groups):
                part, lane = self._take_rows(batch, group), int(batch.lanes[group * self.rows])
                seed = mix_seed(self.settings.training.seed, step, lane, number)
                raw, y, state = self.model.read(part.ids, self.states[group], part.fresh, seed, self.backend)
                self.states[group] = detach(state)
                gradients, found, counted = self._backward(part, raw, y)
                del raw, y, state  # their memory is the next group's
                nats[group].append(found)
                counts[group] = GroupSums(*map(add, counts[group].to_row(), counted.to_row()))
                if self.message is not None:
                    self.weights.write(gradients, self.message[group], add=number > 0)
        summed = torch.stack([torch.stack(each).sum(0) for each in nats]).tolist()  # the first wait for the device
        own = [replace(each, nats=both[0], end_nats=both[1]) for each, both in zip(counts, summed, strict=True)]
        sums, control = self._add_up(own, decide())
        rows = [gradients] if self.message is None else [self.weights.views(row) for row in self.message]
        self.workers.tree_all_reduce([[part.view(-1) for part in row] for row in rows], self.settings.training.groups)
        return StepGradients(gradients=rows[0], sums=sums, control=control, cursor=cursor, waited=waited)

    def gather_states(self) -> dict[str, Tensor]:
        """Returns the recurrent states of all lanes (N, H), of every worker, under their names in a checkpoint."""
        return {
            f"state.{depth}.{part}": self._gather(array)
            for depth, layer in enumerate(join_rows(self.states))
            for part, array in enumerate(layer)
        }

    def take_states(self, whole: State) -> None:
        """Takes this worker's rows of the recurrent states of all lanes (N, H)."""
        self.states = [
            tuple(tuple(part.to(self.device) for part in layer) for layer in take_rows(whole, rows))
            for rows in torch.split(torch.tensor(self.lanes), self.rows)
        ]

    def _gather(self, array: Tensor) -> Tensor:
        """Returns the rows (N, H) of all lanes, given this worker's. Workers own whole groups of lanes."""
        groups = array.view(-1, self.rows, array.shape[1])  # (g, N / G, H)
        return self.workers.all_gather(groups, self.settings.training.groups).flatten(0, 1)

    def _add_up(self, own: list[GroupSums], control: Control) -> tuple[GroupSums, Control]:
        """Returns the sums over all groups, given those of this worker's groups, and rank 0's control."""
        last = list(vars(control).values())
        own_rows = torch.tensor([[*each.to_row(), *last] for each in own], dtype=torch.float64)
        rows = self.workers.all_gather(own_rows, self.settings.training.groups)  # (G, 5 + 3)
        progress, signal, save = rows[0, -len(last) :].tolist()
        sums = GroupSums.from_row(rows[:, : -len(last)].sum(0).tolist())
        return sums, Control(progress, int(signal), bool(save))

    def _take_rows(self, batch: Batch, group: int) -> GroupRows:
        columns = slice(group * self.rows, (group + 1) * self.rows)
        weights = None if batch.weights is None else batch.weights[:, columns]
        since = 0 if weights is None else int(weights.any(1).argmax())
        return GroupRows(
            ids=self._tensor(batch.ids[:, columns]),
            fresh=None if batch.fresh is None else torch.from_numpy(batch.fresh[:, columns]),
            weights=weights,
            since=since,
            targets=batch.targets[since:, columns],
        )

    def _backward(self, rows: GroupRows, raw: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor, GroupSums]:
        """Computes the gradients of one group, given what the model computed for its rows, raw and y (T, N, H).

        The loss is the mean of the members' losses, but its gradients are multiplied by their number, so that a member
        has those of a model alone. Returns the gradients, the nats and end_nats (2,) of the group, which are still on
        the device, and its other sums.
        """
        since, weights = rows.since, rows.weights
        losses = self.model.losses(y[since:] if since else y, self._tensor(rows.targets), self.backend)  # (t, N)
        members, counted, predictions = self.settings.model.members, losses.detach(), float(losses.numel())
        slopes = torch.full_like(losses, members)  # (t, N)
        if weights is not None:
            weighing, predictions = self._tensor(weights[since:]), float(weights.sum())
            slopes, counted = slopes * weighing, counted * weighing
        found = [losses, members * predictions * self._penalties(raw, y, rows.fresh)] if self.penalised else [losses]
        gradients = self.weights.gradients(found, [slopes, *[None] * self.penalised])
        return gradients, *self._sum_up(rows, counted, predictions)

    def _sum_up(self, rows: GroupRows, losses: Tensor, predictions: float) -> tuple[Tensor, GroupSums]:
        """Sums one group's losses (t, N), which are weighted."""
        weights, count, read = rows.weights, 0.0, predictions
        ended = losses.new_zeros(())
        if self.boundary is not None:
            counted = True if weights is None else weights[rows.since :] > 0
            ends = torch.from_numpy((rows.targets == self.boundary) & counted)
            count = float(ends.sum())
            ended = losses[ends].sum() if count else ended
        if self.settings.reader.kind == "windows":  # all of a window is read, even if only its last counts
            read = len(rows.ids) * (self.rows if weights is None else int(weights.any(0).sum()))
        nats = torch.stack([losses.sum(), ended])
        return nats, GroupSums(predictions=predictions, ends=count, characters_read=read)

    def _penalties(self, raw: Tensor, y: Tensor, fresh: Tensor | None) -> Tensor:
        """Returns the penalties AR and TAR of AWD-LSTM (Merity et al. 2017) for outputs (T, N, H)."""
        settings = self.settings.training
        penalty = settings.activation_penalty * y.float().square().mean()
        return penalty + settings.slowness_penalty * slowness(raw, fresh)

    def _tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def slowness(raw: Tensor, fresh: Tensor | None) -> Tensor:
    """Returns the mean square change of outputs (T, N, H) from one character to the next of the same document.

    A new document begins where fresh (T, N) is true.
    """
    changes = (raw[1:] - raw[:-1]).float().square().mean(2)  # (T - 1, N)
    going_on = torch.ones_like(changes) if fresh is None else (~fresh[1:]).to(changes)
    return (changes * going_on).sum() / going_on.sum().clamp(min=1)


def mix_seed(*numbers: int) -> int:
    """Returns a seed made of several numbers. Seeds of neighbouring numbers have nothing in common."""
    digest = hashlib.blake2b(struct.pack(f"{len(numbers)}q", *numbers), digest_size=7).digest()
    return int.from_bytes(digest, "little")


class Learner:
    """One worker's model with its weights, optimizer, gradients, recurrent states and average of weights."""

    def __init__(self, job: WorkerJob, workers: ProcessGroup, vocabulary: Vocabulary) -> None:
        """Makes the model and the optimizer as they are before the first step."""
        settings, training = job.settings, job.settings.training
        embeddings = load_embeddings(job.embedding) if job.embedding else None
        self.model, _ = warm_started_model(settings, vocabulary, job.initial, embeddings)
        self.model.to(torch.device(training.device))
        self.weights = FlatWeights(self.model)
        self.best_weights = self.weights.values.clone()
        dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
        share = workers.broadcast_owned if workers.size > 1 else None
        self.optimizer = Optimizer(self.weights, training, dtype, rank=workers.rank, workers=workers.size, share=share)
        self.gradients = GradientStep(settings, workers, self.model, self.weights, vocabulary.boundary)
        self.average = Average(training.patience) if training.averaging != "none" else None

    def set_rollbacks(self, count: int) -> None:
        """Halves all learning rates once for each rollback."""
        self.optimizer.factor = 0.5**count

    def tensors(self) -> dict[str, Tensor]:
        """Returns the recurrent states of all workers and the optimizer's arrays, under their names in a checkpoint."""
        arrays = self.gradients.gather_states()
        return arrays | {f"optimizer.{name}": value for name, value in self.optimizer.state().items()}

    def average_tensors(self) -> dict[str, Tensor]:
        """Returns the average, and the weights that training continues from, under their names in a checkpoint.

        Once averaging has begun, the checkpoint's model is the average.
        """
        if self.average is None:
            return {}
        arrays = {f"average.{name}": value for name, value in self.average.state().items()}
        if self.average.mean is not None:
            arrays |= {f"raw.{name}": value.clone() for name, value in self.model.state_dict().items()}
        return arrays

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restores everything but the best weights. Raises ValueError when the checkpoint does not fit the settings."""
        arrays, mean = checkpoint.training(), None
        raw = with_prefix(arrays, "raw.")
        load_weights(self.model, checkpoint, raw or None)
        if self.average:
            self.average.restore(with_prefix(arrays, "average."), self.weights.values)
            mean = self.average.mean
        if bool(raw) == (mean is None):
            raise ValueError("it is of other settings")
        self.optimizer.restore(with_prefix(arrays, "optimizer."))
        rows = self.gradients.settings.reader.batch
        self.gradients.take_states(load_recurrent_states(arrays, self.model, rows))

    def restore_best(self, folder: Path, step: int) -> None:
        """Restores the best weights from the checkpoint of that step in a run's folder of checkpoints."""
        shapes = {name: value.shape for name, value in self.model.state_dict().items()}
        weights = Checkpoint(folder / folder_name(step)).weights(shapes)
        self.best_weights.copy_(torch.cat([weights[name].flatten() for name in self.weights.names]))

    def keep_as_best(self) -> None:
        """Keeps a copy of the weights as the best ones."""
        self.best_weights.copy_(self.weights.values)

    def use_best(self) -> None:
        """Makes the best weights the model's, for good."""
        self.weights.values.copy_(self.best_weights)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Gives the model the averaged weights in this context, if averaging has begun."""
        if self.average is None or self.average.mean is None:
            yield
            return
        raw = self.weights.values.clone()
        self.weights.values.copy_(self.average.mean)
        try:
            yield
        finally:
            self.weights.values.copy_(raw)
