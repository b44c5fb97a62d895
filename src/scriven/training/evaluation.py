"""Evaluates a model during its training: measures the loss of the validation text, and writes samples."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import astuple, fields
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
import torch

from scriven.arrays import Ids
from scriven.corpus.store import Corpus
from scriven.distributed.collectives import ProcessGroup
from scriven.events import Sampled
from scriven.inference.chunks import Passage, prompt_ids, random_passage
from scriven.inference.predictor import Predictor, writing_precision
from scriven.inference.protocols import LANES, lane_count, measure, own_protocol, parse_protocol
from scriven.kernels.counts import NgramTable
from scriven.loss import Loss
from scriven.runs.ngrams import MixtureWeights
from scriven.sampling_settings import SamplingSettings
from scriven.settings import TEXT_PLACE, Settings, reader_window
from scriven.signals import Stopped
from scriven.training.mixing import fit_mixture

TIMED_CHARACTERS = 8192  # read to measure the speed of a protocol
TIMED_SAMPLE = 10  # characters written to measure the time of a sample
PASSAGE_CHARACTERS, LONGEST_PASSAGE = 40, 400  # of a prompt from the text: as many as a window has, or 40
SLOWER = 1.3  # times the measured seconds, to be safe
WRITTEN_AT_ONCE = 256  # characters of a sample between two looks for a request to stop
READ_SAMPLE = 2000  # characters of a sample whose words are looked up in the training text
LOOKED_THROUGH, PLACES = 1_000_000, 64  # characters of that text whose words are known, at most, from so many places
HELD_OUT = 20_000  # characters of the validation text whose words are looked up, at most
FEWEST_HELD_OUT = 1000  # characters: with fewer, the share of known words is chance
READABLE = 0.9  # of the words that a model writes are known: then it can be read
MEANT = 0.7  # of the held-out words must be known: in prose 0.8 to 0.98 are, in domains 0.55, in Chinese 0.05
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


class Evaluator:
    """One worker's part of all evaluations of a training."""

    def __init__(
        self,
        settings: Settings,
        workers: ProcessGroup,
        corpus: Corpus,
        predictor: Predictor,
        stop: Callable[[], int] = lambda: 0,
        table: NgramTable | None = None,
    ) -> None:
        """If `stop()` is not 0 on one worker, all abandon the evaluation. It is called again and again.

        The worker that saves the run has the `table` of its counts, if it has any.
        """
        self.stop = stop
        self.stoppable = predictor.with_check_stop(self._check_stop)
        self.settings, self.workers, self.corpus, self.predictor = settings, workers, corpus, predictor
        self.text, self.table = corpus.validation, table
        limit = settings.training.evaluation_characters
        self.limit = limit if 0 < limit < self.text.characters else 0
        self.protocol = own_protocol(settings.reader)  # the validation text is read as the training text is

    @property
    def final_protocols(self) -> tuple[str, ...]:
        """The protocols of the exact losses at the end; they match how the model read in training."""
        return ("stream", "window-256") if self.protocol == "stream" else (self.protocol,)

    def name_protocol(self, protocol: str) -> str:
        """Returns a protocol's name, with how much of the text is read if it is not all."""
        return protocol + (f" of the first {self.limit:,} characters" if self.limit else "")

    def loss(self) -> tuple[str, Loss] | None:
        """Returns the protocol and the loss, summed over all workers; None without a validation text.

        Raises Stopped on every worker when one was asked to stop.
        """
        if not self.text.characters:
            return None
        protocol = self.protocol
        loss = self._measure(protocol)
        if not loss.characters:
            return None
        lanes = lane_count(self.limit or self.text.characters) if protocol == "stream" else 1
        return self.name_protocol(protocol if lanes == 1 else f"{protocol} in {lanes} lanes"), loss

    def final_losses(self) -> Iterator[tuple[str, Loss]]:
        """Yields the exact losses by name. Raises Stopped on every worker when one was asked to stop."""
        for protocol in self.final_protocols:
            yield self.name_protocol(protocol), self._measure(protocol, exact=True)

    def fit_mixture(self) -> MixtureWeights | None:
        """Returns the weights of a mixture of the network with the counts, or None for the network alone."""
        if self.table is None:
            return None
        return fit_mixture(self.predictor, self.table, self.text, parse_protocol(self.protocol))

    def counts_loss(self) -> tuple[str, Loss]:
        """Returns the protocol and the loss of the counts alone, which only this worker measures."""
        return self.name_protocol(self.protocol), self._measure_here(self._counts_alone, self.protocol)

    def compared_losses(
        self, weights: MixtureWeights | None, counts: Loss
    ) -> Iterator[tuple[Literal["mixture", "counts"], str, Loss]]:
        """Yields the exact losses of a mixture, if there is one, and of the counts alone, by the final protocols.

        Only this worker measures them. A mixture is measured as it will be used: in int8, if native code is there.
        `counts` is the result of `counts_loss`.
        """
        for protocol in self.final_protocols:
            if weights:
                yield "mixture", self.name_protocol(protocol), self._measure_here(self._as_used(weights), protocol)
            own = protocol == self.protocol
            alone = counts if own else self._measure_here(self._counts_alone, protocol)
            yield "counts", self.name_protocol(protocol), alone

    @cached_property
    def compared_seconds(self) -> float:
        """About how long `compared_losses` take on this worker. Measured at the first access."""
        self.predictor.model.eval()
        mixed = self._as_used(MixtureWeights(reading=((0.5, 0.5),) * 2, writing=((0.5, 0.5),) * 2, order=1))
        mixed.sampler()  # packs the weights, which does not depend on the text
        pairs = [(protocol, mixed) for protocol in self.final_protocols]
        pairs += [(protocol, self._counts_alone) for protocol in self.final_protocols if protocol != self.protocol]
        return SLOWER * sum(self._protocol_seconds(*pair) for pair in pairs)

    @property
    def _counts_alone(self) -> Predictor:
        assert self.table is not None
        return self.stoppable.counts_alone(self.table)

    def _as_used(self, weights: MixtureWeights | None) -> Predictor:
        """Returns the predictor of the model as it is used after the training: of a mixture, if there are weights."""
        model, here = self.predictor.model, self.stoppable
        writing = writing_precision("auto", model.device.type, model.settings.cell)
        used = Predictor(model, here.vocabulary, here.precision, here.window, writing, self._check_stop)
        return used.with_counts(*weights.mixtures(self.table)) if weights and self.table else used

    def _measure_here(self, predictor: Predictor, protocol: str) -> Loss:
        return measure(protocol, predictor, self.text, limit_characters=self.limit, lanes_at_most=1).loss

    @cached_property
    def final_seconds(self) -> float:
        """About how long `final_losses` takes, the same number on every worker. Measured at the first access."""
        self.predictor.model.eval()
        seconds = sum(self._protocol_seconds(protocol, self.predictor) for protocol in self.final_protocols)
        return self._agree_on_seconds(seconds)

    def evaluation_seconds(self) -> float:
        """Returns about how long an evaluation with its samples takes, the same number on every worker."""
        shared = (
            0.0
            if self.protocol == "stream"
            else self._protocol_seconds(self.protocol, self.predictor) / self.workers.size
        )
        begun = time.monotonic()
        for _ in self.samples(0, length=TIMED_SAMPLE):
            pass
        return self._agree_on_seconds(
            shared + (time.monotonic() - begun) * self.settings.monitor.sample_length / TIMED_SAMPLE
        )

    def _protocol_seconds(self, protocol: str, predictor: Predictor) -> float:
        """Returns about how long a protocol takes for the validation text, measured with its first characters."""
        characters = self.limit or self.text.characters
        if not characters:
            return 0.0
        length = self.settings.reader.length if protocol.startswith("last") else 0
        size = min(characters, length + TIMED_CHARACTERS // max(length, 1))
        begun = time.monotonic()
        measure(protocol, predictor, self.text, limit_characters=size, lanes_at_most=1)
        return (time.monotonic() - begun) * _characters_read(characters, length) / _characters_read(size, length)

    def _agree_on_seconds(self, seconds: float) -> float:
        """Returns rank 0's measurement on every worker, a little longer to be safe."""
        return float(self.workers.broadcast(SLOWER * seconds))

    def samples(self, step: int, weights: MixtureWeights | None = None, length: int | None = None) -> Iterator[Sampled]:
        """Yields what the model writes after each prompt at each temperature, from the same seed every time.

        With `weights` it is a mixture, which writes as `scriven sample` will. A sample has `length` characters, by
        default as many as the settings say. A request to stop ends the samples.
        """
        monitor, seed = self.settings.monitor, self.settings.training.seed
        predictor = self._as_used(weights) if weights else self.stoppable
        vocabulary, count = self.corpus.vocabulary, monitor.sample_length if length is None else length
        prompts = [self._passage(prompt, [seed, step, n], count) for n, prompt in enumerate(monitor.prompts)]
        for (prompt, passage), temperature in product(prompts, monitor.temperatures):
            drawing = SamplingSettings(temperature=temperature)
            try:
                text = self._write(predictor, passage.given, drawing, count)
            except Stopped:
                return
            yield Sampled(step, prompt, text, temperature, seed, vocabulary.decode(passage.after))

    def _write(self, predictor: Predictor, given: Ids, drawing: SamplingSettings, count: int) -> str:
        """Returns what a model writes after the ids (T,), from the run's seed. Raises Stopped if asked to stop."""
        uniforms = np.random.default_rng(self.settings.training.seed).random((count, 1))
        context, written = predictor.read(predictor.start(), given[:, None]), [np.empty(0, np.int64)]
        for begin in range(0, count, WRITTEN_AT_ONCE):
            self._check_stop()
            ids, context = predictor.generate(context, drawing, uniforms[begin : begin + WRITTEN_AT_ONCE])
            written.append(ids[:, 0])
        vocabulary = self.corpus.vocabulary
        return vocabulary.decoder(after=vocabulary.decode(given[-1:])).feed(np.concatenate(written))

    def written_share(self, weights: MixtureWeights | None) -> float:
        """Returns the share (0..1) of known words in a sample of the model as it is used: those of the training text.

        It is nan where words mean nothing, or where native code does not write. Raises Stopped if asked to stop.
        """
        used = self._as_used(weights)
        if math.isnan(self.readable_share) or used.writing is None:
            return math.nan
        return known_share(self._write(used, np.empty(0, np.int64), SamplingSettings(), READ_SAMPLE), self._known)

    @property
    def readable_share(self) -> float:
        """The share (0..1) of known words that makes a text readable: READABLE, or the validation text's if lower.

        It is nan where words mean nothing: in documents, in bytes, in too short a text, and if they do not come again.
        """
        return min(READABLE, self._held_out_share) if self._held_out_share >= MEANT else math.nan

    @cached_property
    def _held_out_share(self) -> float:
        vocabulary, characters = self.corpus.vocabulary, self.text.characters
        if vocabulary.boundary is not None or vocabulary.unit != "character" or characters < FEWEST_HELD_OUT:
            return math.nan
        return known_share(vocabulary.decode(self.text.read(0, min(HELD_OUT, characters))), self._known)

    @cached_property
    def _known(self) -> set[str]:
        """The words of the training text; of a long one, those in pieces from all over it."""
        text = self.corpus.training
        places = PLACES if text.characters > LOOKED_THROUGH else 1
        length = min(text.characters, LOOKED_THROUGH) // places
        pieces = (text.read(text.characters * place // places, length) for place in range(places))
        return {word for ids in pieces for word in words_of(self.corpus.vocabulary.decode(ids))}

    def _passage(self, prompt: str, seed: list[int], after: int) -> tuple[str, Passage]:
        """Returns a prompt as it is shown, and its ids. The seed decides which place of the text `@text` is."""
        corpus = self.corpus
        if prompt != TEXT_PLACE:
            return prompt, Passage(prompt_ids(prompt, corpus.vocabulary, corpus.settings), np.empty(0, np.int64))
        given = reader_window(self.settings.reader) or PASSAGE_CHARACTERS
        passage = random_passage(corpus.training, seed, min(given, LONGEST_PASSAGE), after)
        return corpus.vocabulary.decode(passage.given), passage

    def _measure(self, protocol: str, *, exact: bool = False) -> Loss:
        """Returns the loss by a protocol. The text is cut into one part per group, so the bits depend on no worker.

        An exact loss by `stream` is not cut: rank 0 reads all of it. Raises Stopped on every worker if one was asked to
        stop.
        """
        groups = self.settings.training.groups
        parts, lanes = (1, 1) if exact and protocol == "stream" else (groups, LANES)
        rows = torch.zeros(len(self.workers.owned_range(groups)), len(fields(Loss)) + 1, dtype=torch.float64)
        try:
            for row, part in zip(rows, self.workers.owned_range(groups), strict=True):
                if part < parts:
                    row[:-1] = torch.tensor(self._part(protocol, part, parts, lanes), dtype=torch.float64)
        except Stopped as asked:
            rows[:, -1] = asked.number
        rows = self.workers.all_gather(rows, groups)
        if number := int(rows[:, -1].max()):
            raise Stopped(number)
        nats, characters, size, ends, end_nats, *judged = rows[:, :-1].sum(0).tolist()
        return Loss(nats, int(characters), int(size), int(ends), end_nats, *map(int, judged))

    def _part(self, protocol: str, part: int, parts: int, lanes: int) -> tuple[float, ...]:
        """Returns the values of the loss of one part of the text."""
        shared = {"rank": part, "size": parts, "limit_characters": self.limit, "lanes_at_most": lanes}
        return astuple(measure(protocol, self.stoppable, self.text, **shared).loss)

    def _check_stop(self) -> None:
        """Raises Stopped if somebody asks to stop."""
        if number := self.stop():
            raise Stopped(number)


def _characters_read(characters: int, length: int) -> int:
    """Returns the characters read to predict `characters`, each of them after `length` others if that is not 0."""
    return min(characters, length) + max(0, characters - length) * max(length, 1) if characters else 1


# --- words


def words_of(text: str) -> list[str]:
    """Returns the words of a text: letters in a row, with apostrophes within, in lower case."""
    return WORD.findall(text.casefold())


def known_share(text: str, known: Container[str]) -> float:
    """Returns the share of a text's words that are known, without the last one, which may be cut; nan without any."""
    words = words_of(text)[:-1]
    return sum(word in known for word in words) / len(words) if words else math.nan
