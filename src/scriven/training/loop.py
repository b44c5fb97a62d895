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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scriven.batches import Batch, Cursor, check_cursor, prefetch
from scriven.batches.readers import count_epoch
from scriven.corpus.store import Corpus, CorpusCheck
from scriven.distributed.collectives import ProcessGroup
from scriven.distributed.rendezvous import WorkerJob
from scriven.errors import DivergedError, shortage
from scriven.events import Compared, Evaluated, Event, Finished, RolledBack, Saved, Skipped, Stepped
from scriven.inference.predictor import Predictor
from scriven.loss import Loss, kept_loss
from scriven.runs import Checkpoint, Run, Saver
from scriven.runs.checkpoints import Best
from scriven.runs.journal import ReplayLog
from scriven.runs.ngrams import MixtureWeights
from scriven.runs.tensors import finite
from scriven.settings import Settings, reader_window
from scriven.signals import Stopped
from scriven.training.budget import (
    SAVING_SECONDS,
    SaveClock,
    TimeBudget,
    budget_fraction,
    evaluation_count,
    evaluation_interval,
    evaluations_due,
    progress_within,
)
from scriven.training.evaluation import Evaluator
from scriven.training.gradients import Control, GroupSums, Learner
from scriven.training.notes import advise, describe_divergence, describe_outcome, written_notes
from scriven.training.state import NOTHING_MEASURED, TrainingState, cannot_resume, load_state, selection_loss

FINAL_SHARE = 0.08  # of the time, at most, for the exact validation losses at the end
FINAL_SECONDS = 120.0  # of which FINAL_SHARE is taken, at least, if the budget is not a time


@dataclass
class _Ending:
    """Measurements after the last step."""

    finals: list[tuple[str, str, Loss]] = field(default_factory=list)  # protocol, model and loss
    overflowed: list[str] = field(default_factory=list)  # protocols whose loss is not finite
    written_share: float = math.nan  # of known words in a sample


class Trainer:
    """One worker's part of a training."""

    def __init__(self, job: WorkerJob, workers: ProcessGroup, run: Run | None, stop: Callable[[], int]) -> None:
        """Restores the checkpoint that the job resumes from, if any.

        `run` is where rank 0 saves. `stop()` returns the number of the signal that asks any worker to stop, or 0.
        """
        self.job, self.workers, self.stop = job, workers, stop
        self.saver = Saver(run, job.resume) if run else None
        self.corpus = Corpus.open(job.corpus)
        self.corpus_check = CorpusCheck(self.corpus) if workers.local_rank == 0 else None  # one on each machine
        reader, accumulate = self.settings.reader, self.settings.training.accumulate
        self.epoch = count_epoch(self.corpus.training, self.corpus.vocabulary, reader, accumulate)
        self._begin()
        self.learner.model.eval()
        self.even_evaluations = evaluation_count(job, self.evaluator.evaluation_seconds)
        if job.resume:
            self._resume(Checkpoint(Path(job.resume)))
        self.seconds_before = self.state.seconds
        timed = job.timed and not self.replay
        self.time_budget = TimeBudget(job, self.state, self._reserved_seconds()) if timed else None
        self.save_clock = SaveClock(self.settings.monitor.save_minutes)

    @property
    def settings(self) -> Settings:
        """All settings of the run."""
        return self.job.settings

    @property
    def replay(self) -> ReplayLog | None:
        """The log of the run that is replayed, if any."""
        return self.job.replay

    def _reserved_seconds(self) -> float:
        """Seconds to keep free at the end of a time budget: for the last evaluation, checkpoint, plot, exact losses."""
        final = self.evaluator.final_seconds if self._final_fits() else 0.0
        final += self.evaluator.compared_seconds if self._compared_fits() else 0.0
        return SAVING_SECONDS + self.evaluator.evaluation_seconds() + final

    def _begin(self) -> None:
        """Sets everything that training changes to what it is before the first step."""
        settings, vocabulary = self.settings, self.corpus.vocabulary
        self.state = TrainingState()
        self.learner = Learner(self.job, self.workers, vocabulary)
        window, precision = reader_window(settings.reader), settings.training.precision
        predictor = Predictor(self.learner.model, vocabulary, precision, window)
        table = self.saver.run.counts() if self.saver else None
        self.evaluator = Evaluator(settings, self.workers, self.corpus, predictor, self.stop, table)

    def _seconds(self) -> float:
        return self.seconds_before + self.job.seconds()

    # --- steps

    def events(self) -> Iterator[Event]:
        """Trains to the end of the budget, or until asked to stop; yields events.

        Raises DivergedError when training diverged and was rolled back too often. Saved checkpoints are kept.
        """
        with self.saver or contextlib.nullcontext(), self.corpus_check or contextlib.nullcontext():
            try:
                yield from self._counts_alone()
                while not self._is_over() or self.state.evaluation_pending:
                    try:
                        yield from self._train_until_failure()
                    except DivergedError as error:
                        yield from self._roll_back(error)
                yield from self._saved_events(wait=True)
            except Stopped as stopped:
                self._save()
                yield from self._saved_events(wait=True)
                yield self._make_finished("interrupted", _Ending(), stopped.number)
                return
        ending = _Ending()
        yield from self._final_losses(ending)
        yield self._make_finished("budget", ending)

    def _train_until_failure(self) -> Iterator[Event]:
        """Makes the remaining steps and evaluations.

        Raises Stopped after a step, or during an evaluation, which stays pending. Raises DivergedError at once.
        """
        if self.state.evaluation_pending or self._due() > self.state.evaluations:  # it was stopped at such a step
            yield from self._evaluate()
        vocabulary, reader = self.corpus.vocabulary, self.settings.reader
        lanes, epochs = self.learner.gradients.lanes, math.ceil(self.settings.budget.epochs)
        batches = prefetch(self.corpus.training, vocabulary, reader, self.state.cursor, lanes, epochs)
        with contextlib.closing(batches):
            while not self._is_over():
                event, control = self._step(batches)
                yield event
                yield from self._saved_events()
                self._check_corpus()
                last = self._is_over()
                if control.signal and not last:
                    raise Stopped(control.signal)
                if (last and not self.replay) or self._due() > self.state.evaluations:
                    yield from self._evaluate()
                elif last:  # the run that is replayed was cut short here
                    self._save()
                elif control.save and not self.state.consecutive_skips:  # a rollback restores an earlier state
                    self._save(clock=True)

    def _is_over(self) -> bool:
        return self.state.step >= self.replay.steps if self.replay else self.state.progress >= 1

    def _roll_back(self, error: DivergedError) -> Iterator[Event]:
        """Restores the last checkpoint, or the beginning without one, and halves the learning rate.

        After an earlier rollback since the last evaluation, it restores the best model, since the clock's last
        checkpoint may diverge at any learning rate. Every worker does the same, since all have the same sums. Raises
        `error` after too many rollbacks.
        """
        rollbacks, skipped, left = self.state.rollbacks + 1, self.state.skipped_steps, self.state.step
        if self.replay or rollbacks > self.settings.training.max_rollbacks:
            raise error
        yield from self._saved_events(wait=True)
        path, saved = self.workers.broadcast([self._rollback_folder(), bool(self.saver and self.saver.newest)])
        if path:
            self._resume(Checkpoint(Path(path)))
        else:
            self._begin()
        self.state.skipped_steps, self.state.rolled_back = skipped, True
        self._set_rollbacks(rollbacks)
        if saved:  # so that a run that is resumed from there knows of the rollback
            self._save(clock=self.state.clock if path else True)
        yield RolledBack(
            step=self.state.step, left=left, learning_rate_factor=self.learner.optimizer.factor, reason=str(error)
        )
        yield from self._saved_events(wait=True)

    def _rollback_folder(self) -> str:
        """Returns the folder of the checkpoint to roll back to, or "" for the beginning. Only rank 0 knows it."""
        if not (self.saver and self.saver.newest):
            return ""
        if not self.state.rolled_back:
            return self.saver.newest
        best = self.saver.run.checkpoint("best")
        return str(best.path) if best.manifest.get("best") else ""

    def _set_rollbacks(self, count: int) -> None:
        self.state.rollbacks, self.state.consecutive_skips = count, 0
        self.learner.set_rollbacks(count)

    def _due(self) -> int:
        """Returns how many evaluations should have been made by now."""
        if self.replay:
            return self.replay.due(self.state.step)
        return evaluations_due(self.settings.monitor, self.state, self.even_evaluations)

    def _step(self, batches: Iterator[tuple[Batch, Cursor]]) -> tuple[Stepped | Skipped, Control]:
        """Makes one step of all workers; returns its event, and what rank 0 decided."""
        state, learner = self.state, self.learner
        if self.replay and state.rollbacks != self.replay.rollbacks_at(state.step):
            self._set_rollbacks(self.replay.rollbacks_at(state.step))
        before, begun = [*learner.gradients.states], time.perf_counter()
        taught = learner.gradients.compute(batches, state.step, self._decide)
        sums, rate, norm = taught.sums, math.nan, math.nan
        divisor = sums.predictions if self.settings.training.mean == "character" else max(1.0, sums.ends)
        epochs = sums.predictions / self.epoch.predictions
        within = progress_within(self.job, state, int(sums.characters_read), epochs)
        schedule = taught.control.progress if self.job.timed or self.replay else within
        if math.isfinite(sums.nats):
            rate, norm = learner.optimizer.step(taught.gradients, divisor, schedule, state.epochs)
        self._advance(sums, taught.cursor)
        state.progress = schedule if self.job.timed else budget_fraction(self.job, state)
        if not math.isfinite(norm):
            learner.gradients.states = before  # the states after this step may not be finite either
            return self._skip(sums.loss, norm), taught.control
        state.consecutive_skips = 0
        state.losses.note_step(sums.loss)
        if learner.average:
            learner.average.add(learner.weights.values)
        flops = learner.gradients.flops * sums.characters_read / (time.perf_counter() - begun)
        stepped = Stepped(
            step=state.step,
            progress=state.progress,
            loss=sums.loss,
            learning_rate=rate,
            gradient_norm=norm,
            characters=state.characters,
            seconds=self._seconds(),
            fingerprint=f"{zlib.crc32(struct.pack('dd', sums.nats, norm)):08x}",
            waited=taught.waited,
            epochs=state.epochs,
            flops_per_second=flops,
            peak_share=flops / self.job.peak_flops if self.job.peak_flops else math.nan,
            schedule=schedule,
        )
        return stepped, taught.control

    def _skip(self, loss: Loss, norm: float) -> Skipped:
        """Counts a step that changed nothing. Raises DivergedError after too many in a row."""
        state = self.state
        state.consecutive_skips += 1
        state.skipped_steps += 1
        if state.consecutive_skips >= self.settings.training.max_skipped_steps:
            raise self._divergence(loss.nats_per_char, norm)
        return Skipped(
            step=state.step,
            progress=state.progress,
            nats_per_char=loss.nats_per_char,
            gradient_norm=norm,
            in_a_row=state.consecutive_skips,
            in_all=state.skipped_steps,
            seconds=self._seconds(),
        )

    def _decide(self) -> Control:
        """Returns this worker's decision for all workers in the next step. Only rank 0's counts."""
        clock = self.replay or self.time_budget
        return Control(
            progress=clock.progress_of(self.state.step + 1) if clock else 0.0,
            signal=self.stop() or int(self.state.step + 1 == self.job.until),
            save=self.saver is not None and self.save_clock.is_due() and not self.saver.busy,
        )

    def _advance(self, sums: GroupSums, cursor: Cursor) -> None:
        state = self.state
        state.step, state.cursor, state.validation = state.step + 1, cursor, NOTHING_MEASURED
        state.characters += int(sums.characters_read)
        state.predictions += int(sums.predictions)
        state.epochs = state.predictions / self.epoch.predictions

    def _divergence(self, nats: float, norm: float) -> DivergedError:
        newest, factor = self.saver.newest if self.saver else "", self.learner.optimizer.factor
        words = describe_divergence(self.settings, self.state, nats=nats, norm=norm, factor=factor, newest=newest)
        return DivergedError(words)

    # --- evaluations

    def _counts_alone(self) -> Iterator[Event]:
        """Measures the counts alone, once, if there are any: the baseline that the network should beat."""
        if self.evaluator.table and not self.state.counts.characters:
            protocol, self.state.counts = self.evaluator.counts_loss()
            yield self._make_compared("counts", protocol, self.state.counts, step=self.state.step)

    def _evaluate(self) -> Iterator[Event]:
        """Measures the validation loss, writes samples and saves. Without validation text the last model is best."""
        state, learner = self.state, self.learner
        learner.model.eval()
        state.evaluation_pending = True
        with learner.averaged_weights():
            best, measured = True, self.evaluator.loss()
            state.evaluation_pending, state.rolled_back, state.evaluations = False, False, self._due()
            if measured:
                protocol, loss = measured
                if not math.isfinite(loss.total_nats):
                    raise self._divergence(loss.nats_per_char, math.inf)
                best = state.losses.note_evaluation(loss, self.settings.monitor.choose)
                state.validation = state.last_validation = loss
                yield self._make_evaluated(protocol, loss, step=state.step, best=best)
            state.mixture = self.evaluator.fit_mixture()
            if best:
                state.best = Best(step=state.step, loss=state.last_validation)
                learner.keep_as_best()
            if self.workers.rank == 0:
                yield from self.evaluator.samples(state.step, state.mixture)
        if learner.average and measured:
            learner.average.note(selection_loss(state.last_validation), learner.weights.values)
        self._save(evaluation=True)

    def _make_evaluated(self, protocol: str, loss: Loss, *, step: int, best: bool, final: bool = False) -> Evaluated:
        return Evaluated(
            step=step,
            progress=self.state.progress,
            protocol=protocol,
            loss=loss,
            best=best,
            seconds=self._seconds(),
            final=final,
        )

    def _make_compared(
        self, model: Literal["counts", "mixture"], protocol: str, loss: Loss, *, step: int, final: bool = False
    ) -> Compared:
        return Compared(
            step=step,
            model=model,
            protocol=protocol,
            loss=loss,
            seconds=self._seconds(),
            final=final,
        )

    def _final_fits(self) -> bool:
        """Whether there is time for the exact validation losses. Without a time budget, training's own time counts."""
        return self.evaluator.final_seconds <= self._final_share()

    def _compared_fits(self) -> bool:
        """Whether there is time for those of the counts and of the mixture."""
        return self.evaluator.table is not None and self.evaluator.compared_seconds <= self._final_share()

    def _final_share(self) -> float:
        return FINAL_SHARE * (self.settings.budget.minutes * 60 or max(FINAL_SECONDS, self._seconds()))

    def _final_losses(self, ending: _Ending) -> Iterator[Event]:
        """Measures the best model's exact validation losses, if there is time for them, and notes them in `ending`."""
        wanted, best = self.workers.broadcast(self._final_fits() and not self.stop()), self.state.best
        compared = self._compared_fits() and not self.stop()
        if not (self.corpus.validation.characters and best and (wanted or compared)):
            return
        self.learner.use_best()
        self.learner.model.eval()
        with contextlib.suppress(Stopped):
            for protocol, loss in self.evaluator.final_losses() if wanted else ():
                if math.isfinite(loss.total_nats):
                    ending.finals.append((protocol, "network", loss))
                    yield self._make_evaluated(protocol, loss, step=best.step, best=True, final=True)
                else:
                    ending.overflowed.append(protocol)
            mixture = self._kept_mixture() if compared else None
            for model, protocol, loss in self.evaluator.compared_losses(mixture, self.state.counts) if compared else ():
                if math.isfinite(loss.total_nats):
                    ending.finals.append((protocol, model, loss))
                    yield self._make_compared(model, protocol, loss, step=best.step, final=True)
            ending.written_share = self.evaluator.written_share(mixture) if compared else math.nan

    def _kept_mixture(self) -> MixtureWeights | None:
        """Returns the weights of the kept model's mixture with counts, if it is one. Only rank 0 knows it."""
        if not (self.saver and self.evaluator.table and self.state.best):
            return None
        return self.saver.run.checkpoint(self.state.best.step).mixture

    def _make_finished(self, reason: str, ending: _Ending, signal: int = 0) -> Finished:
        state, factor = self.state, self.learner.optimizer.factor
        best = state.best or Best(step=state.step, loss=NOTHING_MEASURED)
        loss, alone = kept_loss(ending.finals, mixed=self._kept_mixture() is not None, otherwise=best.loss)
        interrupted = reason == "interrupted"
        notes = describe_outcome(
            self.settings, state, factor=factor, overflowed=ending.overflowed, interrupted=interrupted
        )
        if self.saver and self.evaluator.table and not interrupted:
            shares = ending.written_share, self.evaluator.readable_share
            notes += written_notes(*shares, self.job, self.saver.run, seconds=state.seconds)
        advised = self.saver and not interrupted and not any("scriven train" in note for note in notes)
        return Finished(
            step=state.step,
            reason=reason,
            best_step=best.step,
            best=loss,
            seconds=self._seconds(),
            notes=tuple(notes),
            signal=signal,
            advice=advise(self.saver.run, self.settings, state, factor) if self.saver and advised else "",
            network_alone=alone,
        )

    # --- checkpoints

    def _saved_events(self, *, wait: bool = False) -> Iterator[Saved]:
        """Yields the checkpoints that have reached the disk. With `wait`, it waits for the one being written."""
        for step, path, evaluation in self.saver.take_saved(wait=wait) if self.saver else ():
            yield Saved(step=step, path=str(path), evaluation=evaluation)

    def _check_corpus(self, *, wait: bool = False) -> None:
        """Raises InputError when the corpus was found to be damaged; see `CorpusCheck.tell`."""
        if self.corpus_check:
            self.corpus_check.tell(wait=wait)

    def _save(self, *, evaluation: bool = False, clock: bool = False) -> None:
        """Begins to save a checkpoint with every worker's states.

        Raises DivergedError if a number is not finite, InputError if the corpus is damaged. Neither is ever saved.
        """
        begun = time.monotonic()
        self._check_corpus(wait=self.state.epochs >= 1)
        arrays = self.learner.tensors()
        if not all(map(finite, (self.learner.weights.values, *arrays.values()))):
            raise self._divergence(math.inf, math.inf)
        if self.saver is None:
            return
        state = self.state
        state.evaluation, state.clock, state.seconds = evaluation, clock, self._seconds()
        state.budget, state.interval = self.settings.budget.model_dump(), evaluation_interval(self.settings)
        arrays |= self.learner.average_tensors()
        best = state.best.step if state.best else state.step
        with self.learner.averaged_weights():
            self.saver.save(self.learner.model.state_dict(), arrays, state.model_dump(), best=best)
        self.save_clock.restart(time.monotonic() - begun + self.saver.processor_seconds)

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Restores what `_save` saved. Raises InputError if that is not a training of this model.

        With the same settings, training continues to the same bits as without a stop.
        """
        try:
            self._restore(checkpoint)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if shortage(error):
                raise
            raise cannot_resume(checkpoint, str(error)) from error

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = load_state(checkpoint)
        self.learner.restore(checkpoint)
        if state.rollbacks > self.settings.training.max_rollbacks:
            raise ValueError("it is of other settings")
        state.cursor = check_cursor(self.corpus.training, self.settings.reader, state.cursor)
        self.learner.set_rollbacks(state.rollbacks)
        self.state = state
        if state.budget != self.settings.budget.model_dump():
            state.progress = budget_fraction(self.job, state)
            state.evaluations = self._due()
        if state.interval != evaluation_interval(self.settings):
            state.evaluations = self._due()
        if state.best:
            state.best = self._restore_best(checkpoint, state.best)

    def _restore_best(self, checkpoint: Checkpoint, best: Best) -> Best:
        """Restores the best model. The job names another one if the checkpoint's own is damaged."""
        state, step = self.state, self.job.best if str(checkpoint.path) == self.job.resume else best.step
        self.learner.restore_best(checkpoint.path.parent, step)
        restored = best if step == best.step else Best(step=step, loss=state.last_validation)
        if step != best.step or "losses" not in state.model_fields_set:  # earlier versions did not save the losses
            state.losses.chosen_by = selection_loss(restored.loss) if restored.loss.characters else None
        return restored
