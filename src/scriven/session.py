"""A trained model for use: text in, text out. What the command line, servers and users of the library call.

A text is read from its beginning as if a newline stood before it (nothing stands before it where the model knows no
newline: then its first symbol is uniformly likely). Symbols that the model does not know are read as `<unk>`, which
reads as the mean of all known symbols; `<unk>` is never written. Text is prepared as the run's corpus was: in lower
case, plain punctuation or NFC where its settings say so. A byte order mark at its start is left out.

Where the model was trained on documents (lines, files, pieces between separators) a text begins as a document does.
What separates two documents, in a text that is read, ends one and begins the next, of which nothing before it is
remembered; so it does in what the model writes.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypedDict, Unpack, get_args

import numpy as np
import torch
from pydantic import ValidationError

from scriven.arguments import (
    check_choice,
    check_path,
    check_pieces,
    check_stops,
    check_switch,
    check_text,
    check_whole,
)
from scriven.arrays import Float64s, Ids
from scriven.corpus.decoding import prepare
from scriven.corpus.documents import split_document_text
from scriven.corpus.encodings import drop_mark
from scriven.errors import UsageError
from scriven.events import Loss
from scriven.inference.chunks import prompt_ids, read_chunks, split_text
from scriven.inference.detokenizer import StreamDecoder
from scriven.inference.generation import LIVE, UNSEEN, Generation, generate, generate_many
from scriven.inference.predictor import Context, Predictor, writing_precision
from scriven.inference.surprisal import Scored, check_finite, check_scored, surprisals, surprisals_of_text, tally
from scriven.model import CharLM, choose_device, choose_precision
from scriven.model.device import single_threaded
from scriven.runs import load_weights, open_run
from scriven.runs.folder import Which
from scriven.settings import SamplingSettings, Settings, describe_errors, reader_window
from scriven.vocabulary import Vocabulary, check_ids

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "int8"]


class Choices(TypedDict, total=False):
    """How symbols are drawn: the fields of `SamplingSettings`, whose defaults hold for those not given."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float


@dataclass(frozen=True)
class Written:
    """What a model wrote, and whether it ended by itself: where a document ends."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Score:
    """How surprising a text was: its loss, how many of its symbols are unseen, and each symbol's surprisal in nats.

    A symbol is a character, or a byte of UTF-8 where the model's unit is the byte; "characters" are symbols here.
    What ends of documents cost is in the loss and in `total_nats`, beside the symbols.
    """

    loss: Loss
    unseen: int
    surprisals: Float64s  # (characters,) nats

    @property
    def nats(self) -> float:
        """The surprisal of all symbols."""
        return self.loss.nats

    @property
    def total_nats(self) -> float:
        """The surprisal of the whole text, ends of documents included: -ln of its probability."""
        return self.loss.total_nats

    @property
    def characters(self) -> int:
        """How many symbols the text has."""
        return self.loss.characters

    @property
    def bytes(self) -> int:
        """How many bytes of UTF-8 the text has."""
        return self.loss.bytes

    @property
    def bits_per_char(self) -> float:
        """Mean surprisal of a symbol in bits; nan for an empty text."""
        return self.loss.bits_per_char

    @property
    def bits_per_byte(self) -> float:
        """Surprisal per byte of UTF-8 in bits; nan for an empty text."""
        return self.loss.bits_per_byte


class Model:
    """A trained model, ready for use. It remembers nothing between calls: see `session` for that."""

    def __init__(self, predictor: Predictor, settings: Settings, step: int = 0, run: str = "") -> None:
        """Use `load` to open a run. `step` is the training step of the weights, `run` the folder that they are from."""
        self.predictor = predictor
        self.settings = settings
        self.step = step
        self.run = run

    def __repr__(self) -> str:
        """The model's shape, and where it is from."""
        model = self.settings.model
        return ", ".join(
            filter(None, [f"Model({model.cell} {model.layers}x{model.width}", self.run, f"step {self.step})"])
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols that the model knows."""
        return self.predictor.vocabulary

    def encode(self, text: str) -> Ids:
        """The ids (symbols,) of a text, int64; those from `vocabulary.size` on are symbols that are not known."""
        return self.vocabulary.encode(text)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids (symbols,); `decode(encode(text))` is `text`.

        Raises UsageError for what is no list of ids that the vocabulary has.
        """
        return self.vocabulary.decode(check_ids("ids", ids, self.vocabulary.ids))

    def prepare(self, text: str) -> str:
        """The text as the model reads it: as the run's corpus was prepared."""
        return prepare(drop_mark(check_text("text", text)), self.settings.corpus)

    def read_ids(self, text: str) -> Ids:
        """The ids (symbols,) of a text as the model reads it: prepared, a byte that was not UTF-8 as one byte.

        What separates two documents is one boundary.
        """
        return prompt_ids(drop_mark(check_text("text", text)), self.vocabulary, self.settings.corpus)

    def unknown_characters(self, text: str) -> list[str]:
        """The distinct characters of a text that the model does not know, in order of appearance."""
        text = drop_mark(check_text("text", text))
        return self.vocabulary.unknown_characters("".join(split_text(text, self.settings.corpus)))

    def session(self, *, seed: int | None = None) -> Session:
        """A new text, to be read and written piece by piece; the same seed draws the same text.

        Raises UsageError when the seed is negative.
        """
        return Session(self, self._start, np.random.default_rng(first_seed(seed)))

    def stream(
        self,
        prompt: str = "",
        *,
        length: int = 500,
        seed: int | None = None,
        stop: Sequence[str] = (),
        until_end: bool = False,
        piece: int = LIVE,
        **choices: Unpack[Choices],
    ) -> Iterator[str]:
        """What the model writes after `prompt` (which is not repeated), in pieces, as it is written.

        `length` symbols at most; it ends before the first of the `stop` strings to appear in what it writes, and, with
        `until_end`, where the document ends that the prompt begins. Else further documents follow.
        Pieces have `piece` symbols at most, but what a stop string held back: larger ones are written faster.
        The same `seed` gives the same text; without one, every call is different.
        Raises UsageError for values out of range, and where documents are to end that the model does not know.
        """
        check_text("prompt", prompt)
        session = self.session(seed=seed)
        pieces = session.write(length, stop=stop, until_end=until_end, piece=piece, **choices)
        session.read(prompt)
        return pieces

    def sample(
        self,
        prompt: str = "",
        *,
        length: int = 500,
        seed: int | None = None,
        stop: Sequence[str] = (),
        until_end: bool = False,
        **choices: Unpack[Choices],
    ) -> str:
        """What the model writes after `prompt`, as one text; arguments as in `stream`."""
        pieces = self.stream(prompt, length=length, seed=seed, stop=stop, until_end=until_end, piece=UNSEEN, **choices)
        return "".join(pieces)

    def samples(
        self,
        count: int,
        prompt: str = "",
        *,
        length: int = 500,
        seed: int | None = None,
        stop: Sequence[str] = (),
        until_end: bool = False,
        **choices: Unpack[Choices],
    ) -> Iterator[str]:
        """`count` texts after the same prompt, written side by side, many times faster than one after another.

        Text n is the one that `sample` gives with `seed + n`. Arguments as in `stream`.
        """
        written = self.texts(count, prompt, length=length, seed=seed, stop=stop, until_end=until_end, **choices)
        return (each.text for each in written)

    def texts(
        self,
        count: int,
        prompt: str = "",
        *,
        length: int = 500,
        seed: int | None = None,
        stop: Sequence[str] = (),
        until_end: bool = False,
        **choices: Unpack[Choices],
    ) -> Iterator[Written]:
        """As `samples`, with whether each text ended by itself."""
        check_text("prompt", prompt)
        count = check_whole("count", count, 0, "0 or more texts to write")
        length, settings, first = check_length(length), sampling_settings(choices), first_seed(seed)
        self.pen(stop, until_end)  # which is refused now where it must be
        lines = (
            Generation(np.random.default_rng(first + n), settings, length, self.pen(stop, until_end))
            for n in range(count)
        )
        return self._texts(prompt, lines, ending=bool(stop) or until_end)

    def _texts(self, prompt: str, lines: Iterable[Generation], *, ending: bool) -> Iterator[Written]:
        context = self.predictor.read(self._start, self.read_ids(prompt)[:, None])
        for line, text in generate_many(self.predictor, context, lines, ending):
            yield Written(text, line.pen.ended)

    def pen(self, stop: Sequence[str] = (), until_end: bool = False) -> StreamDecoder:
        """What turns the ids of one text that is written into text.

        Raises UsageError where documents are to end that the model does not know, and for values of other types.
        """
        check_switch("until_end", until_end)
        stop = check_stops(stop)
        if until_end and self.vocabulary.boundary is None:
            raise UsageError(
                "until_end: no text of this model ends by itself; train one with corpus.documents, or give a length"
            )
        return StreamDecoder(self.vocabulary, stop, until_end)

    def score(self, text: str) -> Score:
        """How surprising a text is to the model; every character counts once, unseen ones too.

        Where the model knows documents, the text is one or several, as in a file; each is read from its start, and
        its end is counted, also the last one's.
        """
        pieces = list(self.surprisals([self.prepare(text)]))
        ids = np.concatenate([np.empty(0, np.int64), *(piece.ids for piece in pieces)])
        return score_of(self.vocabulary, ids, np.concatenate([np.empty(0), *(piece.nats for piece in pieces)]))

    def surprisals(self, pieces: Iterable[str]) -> Iterator[Scored]:
        """The ids of one text of any length, with the nats that each id costs, in constant memory.

        The text comes in pieces, as `scriven.corpus.sources.read` gives them. Where the model knows documents there is
        a boundary after each, with what the end costs.
        """
        cut = split_document_text(check_pieces("pieces", pieces), self.settings.corpus)
        return check_scored(surprisals_of_text(self.predictor, read_chunks(self.vocabulary, cut)))

    @cached_property
    def _start(self) -> Context:
        start = self.predictor.start()
        check_finite(start.logits.float().cpu().numpy())
        return start


class Session:
    """One text that is read and written by turns; everything in it so far is what the model goes on from."""

    def __init__(self, model: Model, context: Context, random: np.random.Generator) -> None:
        """`context` (of one row) is what was read so far; `random` draws."""
        self._model = model
        self._context = context
        self._random = random

    def fork(self) -> Session:
        """A copy that goes on from here on its own, and would draw the same text."""
        return Session(self._model, self._context, copy.deepcopy(self._random))

    def read(self, text: str) -> None:
        """Read a piece of text; pieces are prepared one by one."""
        self._context = self._model.predictor.read(self._context, self._ids(text)[:, None])

    def end(self) -> None:
        """End the document here: what comes next begins another one.

        Raises UsageError when the model does not know documents.
        """
        self._model.pen(until_end=True)
        self._context = self._model.predictor.read(self._context, self._model.predictor.opening[:, None])

    def score(self, text: str) -> Score:
        """Read a piece of text; how surprising it is after what was there before.

        Where the model knows documents, their ends count where the text has what separates them.
        """
        ids, predictor, before = self._ids(text), self._model.predictor, self._context
        costs = [np.empty(0)]
        for piece in check_scored(surprisals(predictor, [ids], before)):
            costs.append(piece.nats)
            self._context = piece.context
        if predictor.window:
            self._context = predictor.read(before, ids[:, None])
        return score_of(self._model.vocabulary, ids, np.concatenate(costs))

    def _ids(self, text: str) -> Ids:
        """The ids of a text that comes next; a byte order mark is left out where it is the beginning."""
        if self._context is self._model._start:
            return self._model.read_ids(text)
        return prompt_ids(check_text("text", text), self._model.vocabulary, self._model.settings.corpus)

    def write(
        self,
        length: int = 500,
        *,
        stop: Sequence[str] = (),
        until_end: bool = False,
        piece: int = LIVE,
        **choices: Unpack[Choices],
    ) -> Iterator[str]:
        """Write at most `length` symbols, given in pieces; arguments as in `Model.stream`.

        Afterwards, or when the iterator is closed, everything that was drawn has been read: of a stop string too, and
        the end of a document, after which another one begins.
        Raises UsageError for values out of range, and where documents are to end that the model does not know.
        """
        piece = check_whole("piece", piece, 1, "1 or more symbols to write at once")
        length, settings = check_length(length), sampling_settings(choices)
        return self._write(Generation(self._random, settings, length, self._model.pen(stop, until_end)), piece)

    def _write(self, line: Generation, piece: int) -> Iterator[str]:
        for text, context in generate(self._model.predictor, self._context, line, piece):
            self._context = context
            if text:
                yield text


def load(
    run: str | Path,
    *,
    which: Which = "best",
    device: Device = "auto",
    precision: Precision = "auto",
) -> Model:
    """The model of a run folder: its best weights, its last ones, or those of the step given.

    `device` and `precision` are where and in which number format to compute, as in training. On the CPU native code
    writes in that precision, in int8 with auto. In int8 it also reads: within 0.001 nats a character of fp32, and a
    text costs the same, to the bit, whatever is read beside it. Else torch reads: in bf16 or fp32, the faster one where
    int8 was asked for. Without native code writing is always fp32.
    Raises InputError when the folder is not a run or is damaged, UsageError when device or precision are not there.
    """
    check_choice("device", device, get_args(Device))
    check_choice("precision", precision, get_args(Precision))
    path = check_path("run", run)
    if path is None:
        raise UsageError("run is None; give the folder of a run, a str or a Path")
    place = choose_device(device)
    opened = open_run(path)
    checkpoint = opened.checkpoint(which)
    weights = checkpoint.weights(opened.shapes())
    with single_threaded(), torch.random.fork_rng(devices=[]):
        model = CharLM(opened.settings.model, opened.vocabulary.size)  # draws weights, which the checkpoint's replace
        asked, cell = precision.replace("int8", "auto"), opened.settings.model.cell
        number_format = choose_precision(asked, place, cell, again=False)
    load_weights(model, checkpoint, weights)
    window = reader_window(opened.settings.reader)
    writing = writing_precision(precision, place)
    predictor = Predictor(model.eval().to(place), opened.vocabulary, number_format, window, writing)
    return Model(predictor, opened.settings, checkpoint.step, str(run))


def score_of(vocabulary: Vocabulary, ids: Ids, nats: Float64s) -> Score:
    """The score of ids and their nats, both (T,), boundaries among them."""
    total = tally(vocabulary, ids, nats)
    return Score(total.loss, total.unseen, nats[ids != vocabulary.boundary])


def check_length(length: object) -> int:
    """Returns a number of characters to write. Raises UsageError when it is none."""
    return check_whole("length", length, 0, "0 or more characters to write")


def sampling_settings(choices: Choices) -> SamplingSettings:
    """The settings of what the user chose.

    Raises UsageError naming what is out of range.
    """
    try:
        return SamplingSettings(**choices)
    except ValidationError as error:
        raise UsageError(describe_errors(error)) from None


def first_seed(seed: int | None) -> int:
    """The seed itself, or one drawn by chance where it is None.

    Raises UsageError when it is negative.
    """
    return secrets.randbits(32) if seed is None else check_whole("seed", seed, 0, "0 or a positive number")
