"""Trains a model and yields what happens as events; prints nothing.

Every worker runs the same loop on its own lanes. What all must agree on (progress, stopping, losses) travels in the
same message as the gradients, and is computed from the same numbers in the same order everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scriven.batches import Batch, prefetched
from scriven.corpus.store import Corpus, Part
from scriven.errors import DivergedError
from scriven.events import Evaluated, Event, Finished, Loss, Sampled, Saved, Stepped
from scriven.inference.generate import Predictor, generate
from scriven.inference.sampling import Ids
from scriven.inference.score import PROTOCOLS, Reader, Tally, chunks_of, lanes
from scriven.model import CharLM, State, computing
from scriven.model.language_model import detach, join_rows, take_rows
from scriven.runs import Checkpoint, Run, load_weights
from scriven.settings import SamplingSettings
from scriven.training.initial import transplant
from scriven.training.optimizer import FlatWeights, Optimizer
from scriven.training.parallel import Workers
from scriven.training.plan import SAVING_SECONDS, Done, Plan, Timetable, used_share

EVALUATION_LANES = 64
CHARACTERS_PER_EVALUATION_LANE = 1024
SAMPLE_CHARACTERS = 240
FINAL_SHARE = 0.08  # of the time, at most, for the exact validation losses at the end
FINAL_SECONDS = 120.0  # with other budgets, the time of which that share may be used however short the training was
OVERFITTED_NATS = 0.01


@dataclass(frozen=True)
class Head:
    """The first characters of a text, as a text."""

    text: Part
    characters: int

    def read(self, start: int, length: int) -> Ids:
        """The ids (length,) from `start` on."""
        return self.text.read(start, length)


class Trainer:
    """One worker's part of a training."""

    def __init__(self, plan: Plan, workers: Workers, run: Run | None, stop: Callable[[], int]) -> None:
        """`run` is where rank 0 saves; `stop()` gives the number of a signal that asks to stop, or 0."""
        self.plan, self.workers, self.run, self.stop = plan, workers, run, stop
        self.settings, self.device = plan.settings, torch.device(plan.settings.training.device)
        self.corpus = Corpus.open(Path(plan.corpus))
        self.total_steps = plan.total_steps(self.corpus.training.characters)
        self.done = Done()
        self.best: tuple[int, Loss] | None = None  # step and loss
        self.last_loss = Loss(0.0, 0)
        self._make_model()
        rows = self.settings.reader.batch // workers.size
        self.lanes = range(workers.rank * rows, (workers.rank + 1) * rows)
        self.groups = self.settings.training.groups // workers.size
        self.states: list[State] = [self.model.zero_state(rows // self.groups)] * self.groups
        # One row a group: the gradient, then nats, characters, progress and the stop signal.
        self.message = torch.zeros(self.groups, len(self.weights.values) + 4, device=self.device)
        if plan.resume:
            self._restore(Checkpoint(Path(plan.resume)))
        self.seconds_before = self.done.seconds
        self.final_seconds = self._measure_final()
        reserved = SAVING_SECONDS + (self.final_seconds if self._final_fits() else 0.0)
        self.timetable = Timetable(plan, self.done, reserved) if plan.timed else None

    def _make_model(self) -> None:
        settings, plan = self.settings, self.plan
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.training.seed)
            self.model = CharLM(settings.model, self.corpus.vocabulary.size)
        if plan.initial:
            transplant(self.model, self.corpus.vocabulary, plan.initial)
        self.model.to(self.device)
        self.weights = FlatWeights(self.model)
        self.best_values = self.weights.values.clone()
        dtype = torch.bfloat16 if settings.training.precision == "bf16" else torch.float32
        rank, size = self.workers.rank, self.workers.size
        share = self.workers.share if size > 1 else None
        self.optimizer = Optimizer(self.weights, settings.training, dtype, rank=rank, workers=size, share=share)
        self.predictor = Predictor(self.model, self.corpus.vocabulary, self.settings.training.precision)

    def _seconds(self) -> float:
        return self.seconds_before + self.plan.seconds()

    # --- steps

    def events(self) -> Iterator[Event]:
        """Trains to the end of the budget, or until asked to stop; yields events.

        Raises DivergedError when the loss or a gradient is not finite; the weights are then those before that step.
        """
        if self._due() > self.done.evaluated:  # it was stopped at a step that an evaluation belongs to
            yield from self._evaluate()
        vocabulary, reader = self.corpus.vocabulary, self.settings.reader
        batches = prefetched(self.corpus.training, vocabulary, reader, self.done.cursor, self.lanes)
        with contextlib.closing(batches):
            for batch, cursor in batches:
                stepped, signal = self._step(batch, cursor)
                yield stepped
                last = self.done.progress >= 1
                if signal and not last:
                    yield from self._save(best=self.best is None)
                    yield self._finished("interrupted")
                    return
                if last or self._due() > self.done.evaluated:
                    yield from self._evaluate()
                if last:
                    break
        yield from self._final_losses()
        yield self._finished("budget")

    def _due(self) -> int:
        """How many evaluations should have been made by now."""
        return math.floor(self.done.progress * self.settings.training.evaluations + 1e-9)

    def _step(self, batch: Batch, cursor: int) -> tuple[Stepped, int]:
        """One step of all workers: what happened, and the number of the stop signal or 0."""
        values = len(self.weights.values)
        timed = self.timetable.progress() if self.timetable else (self.done.step + 0.5) / self.total_steps
        rows = len(self.lanes) // self.groups
        for group in range(self.groups):
            self._backward(batch, slice(group * rows, (group + 1) * rows), group)
        self.message[:, values + 2 :] = torch.tensor([timed, self.stop()])
        messages = self.workers.gather(self.message)  # (G, P + 4)
        total = messages[0]
        progress, signal = total[values + 2 :].tolist()  # rank 0's, so the same on every worker
        for row in messages[1:]:
            total[: values + 2] += row[: values + 2]
        nats, characters = total[values : values + 2].tolist()
        if not math.isfinite(nats):
            raise DivergedError(self._divergence(nats / characters, math.nan))
        rate, norm = self.optimizer.step(total[:values].div_(characters), progress)
        if not math.isfinite(norm):
            raise DivergedError(self._divergence(nats / characters, norm))
        done = self.done
        done.step, done.cursor, done.characters = done.step + 1, cursor, done.characters + int(characters)
        done.progress = progress if self.timetable else done.step / self.total_steps
        loss, seconds = Loss(nats, int(characters)), self._seconds()
        mark = f"{zlib.crc32(struct.pack('dd', nats, norm)):08x}"
        return Stepped(done.step, done.progress, loss, rate, norm, done.characters, seconds, mark), int(signal)

    def _backward(self, batch: Batch, columns: slice, group: int) -> None:
        """Puts the gradients of one group's rows, with its loss, into its row of the message."""
        message, values = self.message[group], len(self.weights.values)
        self.model.train()
        self.weights.attach_gradients(message[:values])
        ids, targets = (self._tensor(array[:, columns]) for array in (batch.ids, batch.targets))  # (T, N)
        fresh = None if batch.fresh is None else self._tensor(batch.fresh[:, columns])
        seed = mixed_seed(self.settings.training.seed, self.done.step, int(batch.lanes[columns.start]))
        with computing(self.device, self.settings.training.precision):
            logits, state = self.model(ids, self.states[group], fresh, dropout_seed=seed)  # (T, N, V)
        self.states[group] = detach(state)
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")  # (T * N,)
        if batch.weights is not None:
            losses = losses * self._tensor(batch.weights[:, columns]).flatten()
        nats = losses.sum()
        torch.autograd.backward(nats)
        message[values] = nats.detach()
        message[values + 1] = losses.numel() if batch.weights is None else float(batch.weights[:, columns].sum())

    def _tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _divergence(self, nats_per_char: float, norm: float) -> str:
        kept = f"the best model, of step {self.best[0]}, is kept" if self.best else "nothing was saved before it"
        return (
            f"training diverged at step {self.done.step + 1} (loss {nats_per_char:g}, gradient norm {norm:g}); {kept}; "
            f"try a --training.learning-rate below {self.settings.training.learning_rate:g}"
        )

    # --- evaluations

    def _text(self) -> Reader:
        """The validation text, or the first part of it where only that is read."""
        text, limit = self.corpus.validation, self.settings.training.evaluation_characters
        return Head(text, limit) if 0 < limit < text.characters else text

    def _part(self) -> str:
        """What a protocol's name adds where not the whole validation text is read."""
        text = self._text()
        return "" if text is self.corpus.validation else f" of the first {text.characters:,} characters"

    def _evaluate(self) -> Iterator[Event]:
        """Measures the validation loss, writes a sample and saves. Without a validation text, the last is the best."""
        text, best = self._text(), True
        self.done.evaluated = self._due()
        self.model.eval()
        if text.characters:
            count = max(1, min(EVALUATION_LANES, text.characters // CHARACTERS_PER_EVALUATION_LANE))
            numbers = range(count)[self.workers.rank :: self.workers.size]
            loss = self._summed(lanes(self.predictor, text, numbers, count) if numbers else Tally())
            if not math.isfinite(loss.nats):
                raise DivergedError(self._divergence(loss.nats_per_char, math.inf))
            best = self.best is None or loss.nats_per_char < self.best[1].nats_per_char
            self.last_loss = loss
            protocol = ("stream" if count == 1 else f"stream in {count} lanes") + self._part()
            yield Evaluated(self.done.step, self.done.progress, protocol, loss, best, self._seconds())
        if best:
            self.best = (self.done.step, self.last_loss)
            self.best_values.copy_(self.weights.values)
        if self.workers.rank == 0:
            yield self._sample()
        yield from self._save(best)

    def _summed(self, part: Tally) -> Loss:
        """The sum of every worker's loss."""
        loss = part.loss
        nats, characters, size = self.workers.sum([loss.nats, loss.characters, loss.bytes])
        return Loss(nats, int(characters), int(size))

    def _sample(self) -> Sampled:
        """A sample that begins from the same start and seed at every evaluation."""
        settings, seed = SamplingSettings(), self.settings.training.seed
        written = generate(self.predictor, self.predictor.start(), settings, [np.random.default_rng(seed)])
        text = self.corpus.vocabulary.decode([int(next(written)[0][0]) for _ in range(SAMPLE_CHARACTERS)])
        return Sampled(self.done.step, "", text, settings.temperature, seed)

    def _measure_final(self) -> float:
        """Seconds that the exact validation losses will take, the same number on every worker."""
        text = self._text()
        size = min(text.characters, 8192)
        self.model.eval()
        begun = time.monotonic()
        PROTOCOLS["stream"](self.predictor, [text.read(0, size)])
        return float(self.workers.broadcast(1.3 * (time.monotonic() - begun) * text.characters / max(size, 1)))

    def _final_fits(self) -> bool:
        """Whether there is time for the exact validation losses; with another budget, in relation to the training's."""
        seconds = self.settings.budget.minutes * 60 or max(FINAL_SECONDS, self._seconds())
        return self.final_seconds <= FINAL_SHARE * seconds

    def _final_losses(self) -> Iterator[Event]:
        """The best model's exact validation losses, one protocol a worker, where there is time for them."""
        text = self._text()
        wanted = self.workers.broadcast(self._final_fits() and not self.stop())
        if not (text.characters and self.best and wanted):
            return
        self.weights.values.copy_(self.best_values)
        self.model.eval()
        totals = [
            measure(self.predictor, chunks_of(text)) if number % self.workers.size == self.workers.rank else Tally()
            for number, measure in enumerate(PROTOCOLS.values())
        ]
        for protocol, total in zip(PROTOCOLS, totals, strict=True):
            loss, step = self._summed(total), self.best[0]
            yield Evaluated(step, self.done.progress, protocol + self._part(), loss, True, self._seconds(), final=True)

    def _finished(self, reason: str) -> Finished:
        step, loss = self.best or (self.done.step, Loss(0.0, 0))
        notes = []
        if self.best and self.last_loss.nats_per_char > loss.nats_per_char + OVERFITTED_NATS:
            notes.append(
                f"It overfitted: the validation loss was lowest at step {step:,} of {self.done.step:,}; that "
                "model is kept. More text, more dropout or a smaller budget would help."
            )
        if reason == "interrupted":
            notes.append(f"It was cut short at {self.done.progress:.0%} of its budget; --resume goes on from there.")
        return Finished(self.done.step, reason, step, loss, self._seconds(), tuple(notes))

    # --- checkpoints

    def _save(self, best: bool) -> Iterator[Event]:
        """Saves a checkpoint with every worker's states; never one whose weights are not finite."""
        if not bool(self.weights.values.isfinite().all()):
            raise DivergedError(self._divergence(math.inf, math.inf))
        state = join_rows(self.states)
        arrays = {
            f"state.{depth}.{part}": self.workers.gather(array)  # (N, H)
            for depth, layer in enumerate(state)
            for part, array in enumerate(layer)
        }
        if self.run is None:
            return
        self.done.seconds = self._seconds()
        manifest = vars(self.done) | {
            "budget": self.settings.budget.model_dump(),
            "validation": vars(self.last_loss),
            "best": self.best and {"step": self.best[0], "loss": vars(self.best[1])},
        }
        arrays |= {f"optimizer.{name}": value for name, value in self.optimizer.state().items()}
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        yield Saved(self.done.step, str(self.run.save(weights, arrays, manifest, best=best).path))

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Puts back what `_save` saved; with the same settings, what follows is the same to the last bit."""
        manifest, arrays = checkpoint.manifest, checkpoint.training()
        load_weights(self.model, checkpoint)
        self.optimizer.restore(_named(arrays, "optimizer."))
        own = torch.arange(self.lanes.start, self.lanes.stop)
        whole = tuple(tuple(_named(arrays, f"state.{depth}.").values()) for depth in range(self.settings.model.layers))
        self.states = [
            tuple(tuple(part.to(self.device) for part in layer) for layer in take_rows(whole, rows))
            for rows in own.chunk(self.groups)
        ]
        self.done = Done(**{name: manifest[name] for name in vars(self.done)})
        if manifest["budget"] != self.settings.budget.model_dump():
            self.done.progress = used_share(self.plan, self.done, self.corpus.training.characters)
            self.done.evaluated = self._due()
        self.last_loss = Loss(**manifest["validation"])
        if manifest["best"]:
            self.best = (manifest["best"]["step"], Loss(**manifest["best"]["loss"]))
            best = Checkpoint(checkpoint.path.with_name(f"step-{self.best[0]:08d}"))
            with torch.no_grad():
                flat = [best.weights()[name].flatten() for name in self.weights.names]
                self.best_values.copy_(torch.cat(flat))


def _named(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The arrays whose names begin so, by the rest of their names, in the order of names."""
    return {name.removeprefix(prefix): arrays[name] for name in sorted(arrays) if name.startswith(prefix)}


def mixed_seed(*numbers: int) -> int:
    """One seed from several numbers, such that seeds of neighbours have nothing in common."""
    digest = hashlib.blake2b(struct.pack(f"{len(numbers)}q", *numbers), digest_size=7).digest()
    return int.from_bytes(digest, "little")
