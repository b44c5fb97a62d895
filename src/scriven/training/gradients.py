"""What a step's batches teach: gradients of all groups and workers, and the losses and counts that go with them."""

from __future__ import annotations

import hashlib
import math
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from scriven.batches import Batch, Cursor
from scriven.distributed.collectives import ProcessGroup
from scriven.events import Loss
from scriven.model import CharLM, State, autocast_context
from scriven.model.language_model import detach, join_rows, take_rows
from scriven.settings import Choice, Settings
from scriven.training.optimizer import FlatWeights

WINDOWS = {"best": 1, "smoothed": 3}  # how many evaluations, the newest included, a model is chosen by
SMOOTHED_STEPS = 20  # steps whose losses together are the training loss of now
REMEMBERED = 10  # evaluations
MOST = 1e15
MANY_VALIDATED, FEW_VALIDATED = 2000, 200  # characters: of fewer, a validation loss is partly chance, and mostly
NOISE_OF_SECOND_DIFFERENCES = 1.65  # their median size over the standard deviation of the noise in each value

Nats = Annotated[float, Field(ge=0, le=MOST)]  # per character, the ends of documents included


class LossHistory(BaseModel):
    """Losses in nats per character; saved with every checkpoint, so that a resumed training chooses and tells alike."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    first: Nats | None = None  # of the first step
    recent: Nats | None = None  # of the last steps, smoothed
    lowest: Nats | None = None  # that `recent` ever was
    steps: int = Field(default=0, ge=0, lt=1 << 53)
    validated: list[Nats] = Field(default=[], max_length=REMEMBERED)  # the last evaluations
    lowest_validated: Nats | None = None
    chosen_by: Nats | None = None  # what the model that is kept was chosen by

    def note_step(self, loss: Loss) -> None:
        """Takes the loss of a step into account, where it counted a character."""
        value = min(selection_loss(loss), MOST)
        if math.isnan(value):
            return
        self.steps += 1
        self.first = value if self.first is None else self.first
        before = value if self.recent is None else self.recent
        self.recent = before + (value - before) * max(1 / self.steps, 1 / SMOOTHED_STEPS)
        self.lowest = self.recent if self.lowest is None else min(self.lowest, self.recent)

    def note_evaluation(self, loss: Loss, choice: Choice) -> bool:
        """Takes a validation loss into account, and returns whether the model of now is the one to keep."""
        value = min(selection_loss(loss), MOST)
        self.validated = [*self.validated, value][-REMEMBERED:]
        self.lowest_validated = value if self.lowest_validated is None else min(self.lowest_validated, value)
        window = WINDOWS.get(choice, 0)
        mean = fmean(self.validated[-window:])
        full = len(self.validated) >= window > 0  # before that, and without a window, the last one is kept
        if full and self.chosen_by is not None and mean >= self.chosen_by:
            return False
        self.chosen_by = mean
        return True

    @property
    def noise(self) -> float:
        """By how much a validation loss of the last ones would be another by chance: what no trend explains.

        One standard deviation, from second differences; 0 where there are too few evaluations to tell.
        """
        values = self.validated
        differences = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
        return median(differences) / NOISE_OF_SECOND_DIFFERENCES if differences else 0.0


def selection_loss(loss: Loss) -> float:
    """What the best model has least of: nats per character, the ends of documents included."""
    return loss.total_nats / loss.characters if loss.characters else math.nan


# The sums of a step over all its groups, and what rank 0 says to all workers with them.
NATS, COUNTS, TOLD = ("nats", "end_nats"), ("predictions", "ends", "read"), ("progress", "signal", "save")


@dataclass(frozen=True)
class StepGradients:
    """What came of a step's batches."""

    gradients: list[Tensor]  # of the sum of all losses in nats, one a parameter
    sums: dict[str, float]  # NATS, COUNTS and TOLD by name
    cursor: Cursor  # after the batches
    waited: float  # seconds for the batches


class GradientStep:
    """One worker's part of making the gradients of every step; keeps the recurrent states of its groups."""

    def __init__(
        self, settings: Settings, workers: ProcessGroup, model: CharLM, weights: FlatWeights, boundary: int | None
    ) -> None:
        """`boundary` is the symbol that ends documents, whose losses are counted apart."""
        self.settings, self.workers, self.model, self.weights = settings, workers, model, weights
        self.boundary, self.device = boundary, model.device
        training = settings.training
        self.penalised = bool(training.activation_penalty or training.slowness_penalty)
        own = workers.owned_range(training.groups)
        self.groups = len(own)
        self.rows = settings.reader.batch // training.groups  # of a group
        self.lanes = range(own.start * self.rows, own.stop * self.rows)
        self.states: list[State] = [model.zero_state(self.rows)] * self.groups
        # A group's gradients are a row of it. Those of a step with one backward pass are used where they were made.
        alone = self.groups * training.accumulate == 1
        self.message = None if alone else torch.empty(self.groups, len(weights.values), device=self.device)  # (G, P)

    def compute(
        self, batches: Iterator[tuple[Batch, Cursor]], step: int, word: Callable[[], Sequence[float]]
    ) -> StepGradients:
        """The gradients of the step of this number, from as many batches as it has; `word()` is this worker's TOLD.

        Gradients and sums are those of all groups, added in a fixed order.
        """
        waited = 0.0
        nats: list[list[Tensor]] = [[] for _ in range(self.groups)]
        counts = torch.zeros(self.groups, len(COUNTS), dtype=torch.float64)
        for number in range(self.settings.training.accumulate):
            begun = time.monotonic()
            batch, cursor = next(batches)
            waited += time.monotonic() - begun
            for group in range(self.groups):
                found, counted = self._backward(batch, group, step, number)
                nats[group].append(found)
                counts[group] += torch.tensor(counted, dtype=torch.float64)
                gradients = self.weights.take_gradients()
                if self.message is not None:
                    self.weights.write(gradients, self.message[group], add=number > 0)
        summed = torch.stack([torch.stack(each).sum(0) for each in nats]).cpu()  # no device is waited for before
        sums = self._sums(torch.cat((summed.double(), counts), 1), word())
        rows = [gradients] if self.message is None else [self.weights.views(row) for row in self.message]
        self.workers.tree_all_reduce([[part.view(-1) for part in row] for row in rows], self.settings.training.groups)
        return StepGradients(rows[0], sums, cursor, waited)

    def gather_states(self) -> dict[str, Tensor]:
        """The recurrent states of all lanes (N, H), of every worker, by the names that a checkpoint gives them."""
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
        """All lanes' rows (N, H), from this worker's; by groups, which is how lanes are shared out."""
        groups = array.view(-1, self.rows, array.shape[1])  # (g, N / G, H)
        return self.workers.all_gather(groups, self.settings.training.groups).flatten(0, 1)

    def _sums(self, own: Tensor, told: Sequence[float]) -> dict[str, float]:
        """The sums (G, NATS + COUNTS) of this worker's groups, added to all others', and what rank 0 told."""
        word = torch.tensor(told, dtype=torch.float64).expand(len(own), -1)
        rows = self.workers.all_gather(torch.cat((own, word), 1), self.settings.training.groups)
        values = [*rows[:, : own.shape[1]].sum(0).tolist(), *rows[0, own.shape[1] :].tolist()]
        return dict(zip((*NATS, *COUNTS, *TOLD), values, strict=True))

    def _backward(self, batch: Batch, group: int, step: int, number: int) -> tuple[Tensor, list[float]]:
        """Makes the gradients of one group's rows of a step's batch; gives its NATS and its COUNTS."""
        self.model.train()
        columns = slice(group * self.rows, (group + 1) * self.rows)
        weights = None if batch.weights is None else batch.weights[:, columns]  # (T, N)
        since = 0 if weights is None else int(weights.any(1).argmax())  # the first character that counts
        ids, targets = self._tensor(batch.ids[:, columns]), batch.targets[since:, columns]  # (T, N), (t, N)
        fresh = None if batch.fresh is None else torch.from_numpy(batch.fresh[:, columns])  # (T, N), on the CPU
        seed = mix_seed(self.settings.training.seed, step, int(batch.lanes[columns.start]), number)
        with autocast_context(self.device, self.settings.training.precision):
            raw, y, state = self.model.read(ids, self.states[group], fresh, dropout_seed=seed)  # (T, N, H)
            losses = self.model.losses(y[since:] if since else y, self._tensor(targets))  # (t, N)
        self.states[group] = detach(state)
        weighing = torch.ones_like(losses) if weights is None else self._tensor(weights[since:])  # (t, N)
        predictions = losses.numel() if weights is None else float(weights.sum())
        found = [losses, predictions * self._penalties(raw, y, fresh)] if self.penalised else [losses]
        torch.autograd.backward(found, [weighing, *[None] * self.penalised])
        losses = losses.detach() if weights is None else losses.detach() * weighing
        ends = torch.from_numpy(targets == (-1 if self.boundary is None else self.boundary))
        if weights is not None:
            ends &= torch.from_numpy(weights[since:] > 0)
        read = predictions
        if self.settings.reader.kind == "windows":  # also what comes before the last character, where that alone counts
            read = len(ids) * (self.rows if weights is None else int(weights.any(0).sum()))
        count = float(ends.sum())
        ended = losses[ends].sum() if count else losses.new_zeros(())
        return torch.stack([losses.sum(), ended]), [predictions, count, read]

    def _penalties(self, raw: Tensor, y: Tensor, fresh: Tensor | None) -> Tensor:
        """AWD-LSTM's AR and TAR (Merity et al. 2017), of outputs (T, N, H)."""
        settings = self.settings.training
        penalty = settings.activation_penalty * y.float().square().mean()
        return penalty + settings.slowness_penalty * slowness(raw, fresh)

    def _tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def slowness(raw: Tensor, fresh: Tensor | None) -> Tensor:
    """The mean square of how much outputs (T, N, H) change from one character to the next of the same document.

    No document goes on where fresh (T, N) is true.
    """
    changes = (raw[1:] - raw[:-1]).float().square().mean(2)  # (T - 1, N)
    going_on = torch.ones_like(changes) if fresh is None else (~fresh[1:]).to(changes)
    return (changes * going_on).sum() / going_on.sum().clamp(min=1)


def as_loss(sums: dict[str, float]) -> Loss:
    """A step's loss from its sums: characters, and beside them the ends of documents."""
    ends, end_nats = int(sums["ends"]), sums["end_nats"]
    return Loss(sums["nats"] - end_nats, int(sums["predictions"]) - ends, ends=ends, end_nats=end_nats)


def mix_seed(*numbers: int) -> int:
    """One seed from several numbers, such that seeds of neighbours have nothing in common."""
    digest = hashlib.blake2b(struct.pack(f"{len(numbers)}q", *numbers), digest_size=7).digest()
    return int.from_bytes(digest, "little")
