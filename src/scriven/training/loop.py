"""Trains a model and yields what happens as events; prints nothing.

Every worker runs the same loop on its own lanes. What all must agree on (progress, stopping, losses) travels in the
same message as the gradients, and is computed from the same numbers in the same order everywhere.
"""

from __future__ import annotations

import contextlib
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from scriven.batches import Batch, Cursor, check_cursor, prefetch
from scriven.batches.readers import count_epoch
from scriven.corpus.store import Corpus
from scriven.distributed.collectives import ProcessGroup
from scriven.errors import DivergedError, shortage
from scriven.events import Evaluated, Event, Finished, Loss, RolledBack, Saved, Skipped, Stepped
from scriven.inference.predictor import Predictor
from scriven.runs import Checkpoint, Run, Saver, load_weights
from scriven.runs.checkpoints import folder_name
from scriven.runs.manifest import Best
from scriven.runs.tensors import finite
from scriven.settings import reader_window
from scriven.signals import Stopped
from scriven.training.budget import (
    SAVING_SECONDS,
    Done,
    SaveClock,
    TimeBudget,
    WorkerJob,
    budget_fraction,
    evaluation_count,
    evaluations_due,
    interval,
    progress_within,
)
from scriven.training.corpus_check import CorpusCheck
from scriven.training.evaluation import Evaluator
from scriven.training.gradients import GradientStep, LossHistory, as_loss, selection_loss
from scriven.training.kept import cannot_resume, load_recurrent_states, load_state, with_prefix
from scriven.training.optimizer import Average, FlatWeights, Optimizer
from scriven.training.outcome import divergence_words, kept_words, learning_words
from scriven.training.warm_start import load_embeddings, warm_started_model

FINAL_SHARE = 0.08  # of the time, at most, for the exact validation losses at the end
FINAL_SECONDS = 120.0  # with other budgets, the time of which that share may be used however short the training was


class Trainer:
    """One worker's part of a training."""

    def __init__(self, plan: WorkerJob, workers: ProcessGroup, run: Run | None, stop: Callable[[], int]) -> None:
        """`run` is where rank 0 saves; `stop()` gives the number of the signal that asks any worker to stop, or 0."""
        self.plan, self.story, self.workers, self.stop = plan, plan.story, workers, stop
        self.saver = Saver(run, plan.resume) if run else None
        self.settings, self.device = plan.settings, torch.device(plan.settings.training.device)
        self.corpus = Corpus.open(plan.corpus)
        self.check = CorpusCheck(self.corpus) if workers.local_rank == 0 else None  # one of each machine
        accumulate = self.settings.training.accumulate
        self.counts = count_epoch(self.corpus.training, self.corpus.vocabulary, self.settings.reader, accumulate)
        self.skips = self.skipped = self.returns = 0  # steps skipped in a row, and in all; times gone back
        self._begin()
        self.model.eval()
        self.evaluations = evaluation_count(plan, self.examiner.evaluation_seconds)
        if plan.resume:
            self._resume(Checkpoint(Path(plan.resume)))
        self.seconds_before = self.done.seconds
        self.timetable = self.story or (TimeBudget(plan, self.done, self._reserved_seconds()) if plan.timed else None)
        self.clock = SaveClock(self.settings.monitor.save_minutes)

    def _reserved_seconds(self) -> float:
        """Seconds to keep free at the end of a time budget: for the last evaluation, checkpoint, plot, exact losses."""
        final = self.examiner.final_seconds if self._final_fits() else 0.0
        return SAVING_SECONDS + self.examiner.evaluation_seconds() + final

    def _begin(self) -> None:
        """Everything as it is before the first step."""
        self.done = Done()
        self.best: tuple[int, Loss] | None = None  # step and loss
        self.losses, self.last_loss = LossHistory(), Loss(0.0, 0)
        self.evaluated_at = -1  # the step of that loss
        self.owed = False  # an evaluation that was left
        self.went_back = False  # since the last evaluation
        self.overflowed: list[str] = []  # protocols by which the best model's loss is not finite
        settings, plan = self.settings, self.plan
        embeddings = load_embeddings(plan.embedding) if plan.embedding else None
        self.model, _ = warm_started_model(settings, self.corpus.vocabulary, plan.initial, embeddings)
        self.model.to(self.device)
        self.weights = FlatWeights(self.model)
        self.best_values = self.weights.values.clone()
        dtype = torch.bfloat16 if settings.training.precision == "bf16" else torch.float32
        rank, size = self.workers.rank, self.workers.size
        share = self.workers.broadcast_owned if size > 1 else None
        self.optimizer = Optimizer(self.weights, settings.training, dtype, rank=rank, workers=size, share=share)
        self.teacher = GradientStep(settings, self.workers, self.model, self.weights, self.corpus.vocabulary.boundary)
        self.average = Average(settings.training.patience) if settings.training.averaging != "none" else None
        window, precision = reader_window(settings.reader), settings.training.precision
        predictor = Predictor(self.model, self.corpus.vocabulary, precision, window)
        self.examiner = Evaluator(settings, self.workers, self.corpus, predictor, self.stop)

    def _seconds(self) -> float:
        return self.seconds_before + self.plan.seconds()

    # --- steps

    def events(self) -> Iterator[Event]:
        """Trains to the end of the budget, or until asked to stop; yields events.

        Raises DivergedError when losses or gradients were not finite again and again; what was saved is kept.
        """
        with self.saver or contextlib.nullcontext(), self.check or contextlib.nullcontext():
            try:
                yield from self._steps()
            except Stopped as asked:
                self._save()
                yield from self._saved_events(wait=True)
                yield self._make_finished("interrupted", asked.number)
                return
        yield from self._final_losses()
        yield self._make_finished("budget")

    def _steps(self) -> Iterator[Event]:
        """All steps and evaluations. Raises Stopped after a step, or within an evaluation, which is then owed."""
        while not self._is_over() or self.owed:
            try:
                yield from self._train_until_failure()
            except DivergedError as error:
                yield from self._roll_back(error)
        yield from self._saved_events(wait=True)

    def _train_until_failure(self) -> Iterator[Event]:
        """As `_steps`. Raises DivergedError as soon as it happens."""
        if self.owed or self._due() > self.done.evaluated:  # it was stopped at a step that an evaluation belongs to
            yield from self._evaluate()
        vocabulary, reader = self.corpus.vocabulary, self.settings.reader
        lanes, epochs = self.teacher.lanes, math.ceil(self.settings.budget.epochs)
        batches = prefetch(self.corpus.training, vocabulary, reader, self.done.cursor, lanes, epochs)
        with contextlib.closing(batches):
            while not self._is_over():
                stepped, signal, save = self._step(batches)
                yield stepped
                yield from self._saved_events()
                self._look_at_corpus()
                last = self._is_over()
                if signal and not last:
                    raise Stopped(signal)
                if (last and not self.story) or self._due() > self.done.evaluated:
                    yield from self._evaluate()
                elif last:  # what is done again was cut short here
                    self._save()
                elif save and not self.skips:  # a checkpoint does not say how many steps in a row were skipped
                    self._save(clock=True)

    def _is_over(self) -> bool:
        return self.done.step >= self.story.steps if self.story else self.done.progress >= 1

    def _roll_back(self, error: DivergedError) -> Iterator[Event]:
        """Back to the last checkpoint, or to the start where there is none, with half the learning rate.

        If that was in vain since the last evaluation, back to the best model: what the clock saved last may diverge
        whatever the rate. Every worker does, since all have seen the same sums. Raises the error after the last time.
        """
        returns, skipped, left = self.returns + 1, self.skipped, self.done.step
        if self.story or returns > self.settings.training.max_rollbacks:
            raise error
        yield from self._saved_events(wait=True)
        path, saved = self.workers.broadcast([self._way_back(), bool(self.saver and self.saver.newest)])
        if path:
            self._resume(Checkpoint(Path(path)))
        else:
            self._begin()
        self.skipped, self.went_back = skipped, True
        self._set_returns(returns)
        if saved:  # so that who resumes from there knows that training went back
            self._save(clock=not path or load_state(Checkpoint(Path(path))).clock)
        yield RolledBack(self.done.step, left, self.optimizer.factor, str(error))
        yield from self._saved_events(wait=True)

    def _way_back(self) -> str:
        """The folder of the checkpoint to go back to, which rank 0 knows; "" for the start."""
        if not (self.saver and self.saver.newest):
            return ""
        if not self.went_back:
            return self.saver.newest
        best = self.saver.run.checkpoint("best")
        return str(best.path) if best.manifest.get("best") else ""

    def _set_returns(self, returns: int) -> None:
        self.returns, self.optimizer.factor, self.skips = returns, 0.5**returns, 0

    def _due(self) -> int:
        """How many evaluations should have been made by now."""
        if self.story:
            return self.story.due(self.done.step)
        return evaluations_due(self.settings.monitor, self.done, self.evaluations)

    def _step(self, batches: Iterator[tuple[Batch, Cursor]]) -> tuple[Stepped | Skipped, int, bool]:
        """One step of all workers, from one batch or several.

        Gives what happened, the number of the stop signal or 0, and whether a save is due by the clock.
        """
        if self.story and self.returns != self.story.returns(self.done.step):
            self._set_returns(self.story.returns(self.done.step))
        states = [*self.teacher.states]
        taught = self.teacher.compute(batches, self.done.step, self._word)
        sums, rate, norm = taught.sums, math.nan, math.nan
        divisor = sums["predictions"] if self.settings.training.mean == "character" else max(1.0, sums["ends"])
        within = progress_within(self.plan, self.done, int(sums["read"]), sums["predictions"] / self.counts.predictions)
        progress = sums["progress"] if self.timetable else within
        if math.isfinite(sums["nats"]):
            rate, norm = self.optimizer.step(taught.gradients, divisor, progress, self.done.epochs)
        self._advance(sums, taught.cursor)
        self.done.progress = progress if self.plan.timed else budget_fraction(self.plan, self.done)
        loss, done, word = as_loss(sums), self.done, (int(sums["signal"]), bool(sums["save"]))
        if not math.isfinite(norm):
            self.teacher.states = states  # those after it are not finite either, it may be
            return self._skip(loss, norm), *word
        self.skips = 0
        self.losses.note_step(loss)
        if self.average:
            self.average.add(self.weights.values)
        mark = f"{zlib.crc32(struct.pack('dd', sums['nats'], norm)):08x}"
        told = done.step, done.progress, loss, rate, norm, done.characters, self._seconds(), mark, taught.waited
        return Stepped(*told, done.epochs, progress), *word

    def _skip(self, loss: Loss, norm: float) -> Skipped:
        """A step that changed nothing. Raises DivergedError where there were too many in a row."""
        self.skips, self.skipped = self.skips + 1, self.skipped + 1
        if self.skips >= self.settings.training.max_skipped_steps:
            raise self._divergence(loss.nats_per_char, norm)
        done = self.done
        told = done.step, done.progress, loss.nats_per_char, norm, self.skips, self.skipped
        return Skipped(*told, self._seconds())

    def _word(self) -> tuple[float, float, float]:
        """What rank 0 tells all workers in every step, its TOLD: progress where it is not counted, and what is due."""
        progress = self.timetable.progress_of(self.done.step + 1) if self.timetable else 0.0
        save = self.saver is not None and self.clock.is_due() and not self.saver.busy
        return progress, self.stop() or int(self.done.step + 1 == self.plan.until), save

    def _advance(self, sums: dict[str, float], cursor: Cursor) -> None:
        done = self.done
        done.step, done.cursor = done.step + 1, cursor
        done.characters += int(sums["read"])
        done.predictions += int(sums["predictions"])
        done.epochs = done.predictions / self.counts.predictions

    def _divergence(self, nats: float, norm: float) -> DivergedError:
        kept = kept_words(self.best[0] if self.best else None, self.saver.newest if self.saver else "")
        counts, factor = {"returns": self.returns, "skipped": self.skipped}, self.optimizer.factor
        words = divergence_words(self.settings, self.done, nats=nats, norm=norm, factor=factor, kept=kept, **counts)
        return DivergedError(words)

    # --- evaluations

    def _evaluate(self) -> Iterator[Event]:
        """Measures the validation loss, writes samples and saves. Without a validation text, the last is the best."""
        self.model.eval()
        self.owed = True
        with self._weights_to_use():
            best, measured = True, self.examiner.loss()
            self.owed, self.went_back, self.done.evaluated = False, False, self._due()
            if measured:
                protocol, loss = measured
                if not math.isfinite(loss.total_nats):
                    raise self._divergence(loss.nats_per_char, math.inf)
                best = self.losses.note_evaluation(loss, self.settings.monitor.choose)
                self.last_loss, self.evaluated_at = loss, self.done.step
                yield Evaluated(self.done.step, self.done.progress, protocol, loss, best, self._seconds())
            if best:
                self.best = (self.done.step, self.last_loss)
                self.best_values.copy_(self.weights.values)
            if self.workers.rank == 0:
                yield from self.examiner.samples(self.done.step)
        if self.average and measured:
            self.average.note(selection_loss(self.last_loss), self.weights.values)
        self._save(evaluation=True)

    def _final_fits(self) -> bool:
        """Whether there is time for the exact validation losses; with another budget, in relation to the training's."""
        seconds = self.settings.budget.minutes * 60 or max(FINAL_SECONDS, self._seconds())
        return self.examiner.final_seconds <= FINAL_SHARE * seconds

    def _final_losses(self) -> Iterator[Event]:
        """The best model's exact validation losses, where there is time for them."""
        wanted = self.workers.broadcast(self._final_fits() and not self.stop())
        if not (self.corpus.validation.characters and self.best and wanted):
            return
        self.weights.values.copy_(self.best_values)
        self.model.eval()
        with contextlib.suppress(Stopped):
            for protocol, loss in self.examiner.final_losses():
                if math.isfinite(loss.total_nats):
                    told = self.best[0], self.done.progress, protocol, loss, True, self._seconds()
                    yield Evaluated(*told, final=True)
                else:
                    self.overflowed.append(protocol)

    def _make_finished(self, reason: str, signal: int = 0) -> Finished:
        step, loss = self.best or (self.done.step, Loss(0.0, 0))
        validated, factor = loss.characters, self.optimizer.factor
        notes = learning_words(self.settings, self.losses, self.done, kept=step, validated=validated, factor=factor)
        if self.overflowed:
            notes.append(
                f"By {', '.join(self.overflowed)} the best model's values grow beyond all bounds, and its loss is no "
                "number; --model.activation tanh bounds them."
            )
        if self.skipped:
            notes.append(
                f"{self.skipped:,} steps were skipped, whose loss or gradient was not finite, and training rolled back "
                f"{self.returns} times; a smaller --training.learning-rate would help."
            )
        if reason == "interrupted":
            notes.append(f"It was cut short at {self.done.progress:.0%} of its budget; --resume goes on from there.")
        return Finished(self.done.step, reason, step, loss, self._seconds(), tuple(notes), signal)

    # --- checkpoints

    def _saved_events(self, *, wait: bool = False) -> Iterator[Saved]:
        """Tells of checkpoints that have reached the disk; with `wait`, of that under way too."""
        for step, path, evaluation in self.saver.take_saved(wait=wait) if self.saver else ():
            yield Saved(step, str(path), evaluation)

    def _look_at_corpus(self, *, wait: bool = False) -> None:
        """Raises InputError when the corpus was found to be damaged; see `CorpusCheck.tell`."""
        if self.check:
            self.check.tell(wait=wait)

    def _save(self, *, evaluation: bool = False, clock: bool = False) -> None:
        """Begins to save a checkpoint with every worker's states; never one of numbers that are not finite.

        Nor one of a text that was found to be damaged: it raises InputError then.
        """
        begun = time.monotonic()
        self._look_at_corpus(wait=self.done.epochs >= 1)
        arrays = self.teacher.gather_states()
        arrays |= {f"optimizer.{name}": value for name, value in self.optimizer.state().items()}
        if not all(map(finite, (self.weights.values, *arrays.values()))):
            raise self._divergence(math.inf, math.inf)
        if self.saver is None:
            return
        self.done.seconds = self._seconds()
        manifest = vars(self.done) | {
            "budget": self.settings.budget.model_dump(),
            "interval": interval(self.settings),
            "owed": self.owed,
            "evaluation": evaluation,
            "clock": clock,
            "went_back": self.went_back,
            "skipped": self.skipped,
            "returns": self.returns,
            "validation": vars(self.last_loss if self.evaluated_at == self.done.step else Loss(0.0, 0)),
            "last_validation": vars(self.last_loss),
            "losses": self.losses.model_dump(),
            "best": self.best and {"step": self.best[0], "loss": vars(self.best[1])},
        }
        if self.average:
            arrays |= {f"average.{name}": value for name, value in self.average.state().items()}
            if self.average.mean is not None:  # which is what the model is then; training goes on from these
                arrays |= {f"raw.{name}": value.clone() for name, value in self.model.state_dict().items()}
        best = self.best[0] if self.best else self.done.step
        with self._weights_to_use():
            self.saver.save(self.model.state_dict(), arrays, manifest, best=best)
        self.clock.restart(time.monotonic() - begun + self.saver.processor_seconds)

    @contextlib.contextmanager
    def _weights_to_use(self) -> Iterator[None]:
        """While this lasts, the model has the averaged weights, where averaging has begun."""
        if self.average is None or self.average.mean is None:
            yield
            return
        raw = self.weights.values.clone()
        self.weights.values.copy_(self.average.mean)
        try:
            yield
        finally:
            self.weights.values.copy_(raw)

    def _resume(self, checkpoint: Checkpoint) -> None:
        """As `_restore`. Raises InputError when what was saved is not a training of this model."""
        try:
            self._restore(checkpoint)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if shortage(error):
                raise
            raise cannot_resume(checkpoint, str(error)) from error

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Puts back what `_save` saved; with the same settings, what follows is the same to the last bit."""
        told, arrays, training = load_state(checkpoint), checkpoint.training(), self.settings.training
        raw, mean = with_prefix(arrays, "raw."), None
        load_weights(self.model, checkpoint, raw or None)
        if self.average:
            self.average.restore(with_prefix(arrays, "average."), self.weights.values)
            mean = self.average.mean
        if bool(raw) == (mean is None) or told.returns > training.max_rollbacks:
            raise ValueError("it is of other settings")
        self.optimizer.restore(with_prefix(arrays, "optimizer."))
        self.teacher.take_states(load_recurrent_states(arrays, self.model, self.settings.reader.batch))
        self.done = told.done
        self.done.cursor = check_cursor(self.corpus.training, self.settings.reader, told.cursor)
        if told.budget != self.settings.budget.model_dump():
            self.done.progress = budget_fraction(self.plan, self.done)
            self.done.evaluated = self._due()
        if told.interval != interval(self.settings):
            self.done.evaluated = self._due()
        self.owed, self.skipped, self.went_back = told.owed, told.skipped, told.went_back
        self._set_returns(told.returns)
        self.last_loss = Loss(**vars(told.last_validation))
        self.evaluated_at = told.step if told.validation == told.last_validation else -1
        self.best = self._load_best(checkpoint, told.best) if told.best else None
        chosen_by = selection_loss(self.best[1]) if self.best and self.best[1].characters else None
        self.losses = told.losses or LossHistory(chosen_by=chosen_by)
        if self.best and told.best and self.best[0] != told.best.step:  # which is damaged, and chosen for that
            self.losses.chosen_by = chosen_by

    def _load_best(self, checkpoint: Checkpoint, best: Best) -> tuple[int, Loss]:
        """Puts back the best model; that of the plan, where its own was found to be damaged before."""
        step = self.plan.best if str(checkpoint.path) == self.plan.resume else best.step
        loss = Loss(**vars(best.loss)) if step == best.step else self.last_loss
        shapes = {name: value.shape for name, value in self.model.state_dict().items()}
        weights = Checkpoint(checkpoint.path.with_name(folder_name(step))).weights(shapes)
        self.best_values.copy_(torch.cat([weights[name].flatten() for name in self.weights.names]))
        return step, loss
