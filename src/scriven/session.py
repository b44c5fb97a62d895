"""One text that a model reads and writes by turns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, Unpack

import numpy as np

from scriven.arguments import check_text
from scriven.arrays import Float32s, Float64s, Ids
from scriven.errors import UsageError
from scriven.inference.chunks import prompt_ids
from scriven.inference.generation import LENGTH, LIVE, SAMPLING, Generation, GenerationOptions
from scriven.inference.predictor import Predictor
from scriven.inference.saved_session import Origin, SavedSession, TextMemory, require_origin
from scriven.inference.stream_decoder import make_decoder
from scriven.penalties import Followers
from scriven.results import Score, Step, score_of
from scriven.rules import Rule
from scriven.sampling_settings import SamplingFilters
from scriven.settings import Settings
from scriven.vocabulary import check_ids

SHOWN = 3  # likely next symbols in a session's repr


class TrainingText(Protocol):
    """An index of a training text; see `scriven.inference.novelty.TrainingIndex`."""

    @property
    def suffixes(self) -> Followers:
        """What follows each stretch of the text."""


class SessionModel(Protocol):
    """What a session needs of its model: `scriven.trained_model.Model` is one. It is pickled with the session."""

    predictor: Predictor
    settings: Settings
    origin: Origin | None  # without it, sessions cannot be saved

    def read_ids(self, text: str) -> Ids:
        """Returns the ids (symbols,) of a text as the model reads it from its beginning."""

    def find_index(self) -> TrainingText | None:
        """Returns the index of the training text; it is built if it is missing."""

    def continue_session(self, saved: SavedSession) -> Session:
        """Returns a session that was saved. Raises InputError if it belongs to another model."""


class Session:
    """One text that is read and written by turns; the model remembers all of it."""

    def __init__(
        self, model: SessionModel, memory: TextMemory, random: np.random.Generator, *, inside: bool = True
    ) -> None:
        """`memory` is the model's memory of the text; `random` draws symbols.

        `inside` says whether a text of tokens that was read before ended inside of a line.
        """
        self._model = model
        self._vocabulary = model.predictor.vocabulary
        self._memory = memory
        self._random = random
        self._last = "?" if memory.begun and inside else ""  # of the text so far, its last piece; how it ends is saved

    def __repr__(self) -> str:
        """The model, and the symbols that are most likely now; not at once if counts must read for that."""
        if self._memory.adaptive and not self._memory.begun:
            return f"Session({self._model!r}, adaptive)"
        chances = self.next()
        likely = [f"{self._vocabulary.decode([each])!r} {chances[each]:.0%}" for each in np.argsort(-chances)[:SHOWN]]
        return f"Session({self._model!r}, next {', '.join(likely)})"

    def next(self, *, writing: bool = False) -> Float64s:
        """The probabilities (V,) of the next symbol, float64, in the order of the ids; `<unk>` is the last.

        With `writing` they are those that the model writes by: counts then look at shorter contexts, which copy less.
        Raises UsageError for them in a session that learns.
        """
        return self._memory.probabilities(writing=writing)

    def step(self, symbol: str | int) -> Step:
        """Reads one symbol, a character or its id. Returns the model's state and the next symbol's probabilities.

        All values are copies, as numpy arrays. Raises UsageError for anything but one symbol.
        """
        ids = self._ids(symbol) if isinstance(symbol, str) else check_ids("symbol", [symbol], self._vocabulary.ids)
        if len(ids) != 1:
            raise UsageError(f"symbol {symbol!r} is {len(ids):,} symbols of this model; give one, or its id")
        self._memory.read(ids)
        self._last = self._vocabulary.decode(ids)
        state = self._memory.state
        return Step(self.next(), tuple(tuple(_row(part) for part in layer) for layer in state or ()))

    def save(self, path: str | Path) -> None:
        """Saves the session to a file; `load_session` continues it, even in another program.

        The file belongs to the checkpoint that the model was loaded from. Raises InputError if it cannot be written,
        UsageError if the model belongs to no run.
        """
        self._snapshot().write(path)

    def _snapshot(self) -> SavedSession:
        memory, inside = self._memory, not self._vocabulary.ends_apart(self._last)
        return SavedSession(require_origin(self._model.origin), memory.context, self._random, memory.begun, inside)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles what `save` writes, and the name of the model's checkpoint."""
        return _unpickle, (self._model, self._snapshot().to_bytes())

    def fork(self) -> Session:
        """Returns a copy that continues on its own. It would draw the same text."""
        made = Session(self._model, self._memory.fork(), copy.deepcopy(self._random))
        made._last = self._last
        return made

    def read(self, text: str) -> None:
        """Reads a piece of text. Each piece is prepared alone, and a token ends with it."""
        self._memory.read(self._ids(text))
        self._last = text or self._last

    def end(self) -> None:
        """Ends the document here; the next text begins another one.

        Raises UsageError if the model knows no documents.
        """
        make_decoder(self._vocabulary, until_end=True)
        self._memory.read(self._model.predictor.opening)
        self._last = ""

    def score(self, text: str) -> Score:
        """Reads a piece of text, and returns how surprising it is after the text before it.

        A model of documents counts an end at every separator in the piece.
        """
        ids = self._ids(text)
        self._last = text or self._last
        return score_of(self._vocabulary, ids, self._memory.score(ids), adaptive=self._memory.adaptive)

    def _ids(self, text: str) -> Ids:
        """Returns the ids of the next piece of text. A byte order mark at the very beginning is left out."""
        if not self._memory.begun:
            return self._model.read_ids(text)
        return prompt_ids(check_text("text", text), self._vocabulary, self._model.settings.corpus)

    def write(
        self,
        length: int = LENGTH,
        *,
        stop: Sequence[str] = (),
        until_end: bool = False,
        piece: int = LIVE,
        temperature: float = SAMPLING.temperature,
        top_k: int = SAMPLING.top_k,
        top_p: float = SAMPLING.top_p,
        min_p: float = SAMPLING.min_p,
        rule: Rule | None = None,
        **filters: Unpack[SamplingFilters],
    ) -> Iterator[str]:
        """Writes at most `length` symbols, and yields them in pieces. Arguments are those of `Model.stream`.

        A session writes on after the end of a document, unless told `until_end`. Afterwards, or once the iterator is
        closed, the session has read every symbol that was drawn, also those of a stop string and the end of a document.
        After such an end, another document begins. Raises UsageError for values out of range, and for `until_end` if
        the model knows no documents.
        """
        return self._write_with(
            GenerationOptions(length, stop, until_end, temperature, top_k, top_p, min_p, piece, rule, filters)
        )

    def _write_with(self, options: GenerationOptions) -> Iterator[str]:
        """Writes like `write`, with its arguments as one value."""
        line = options.begin(self._vocabulary, self._random, training_followers(self._model, options))
        if self._vocabulary.unit != "token":  # what comes next does not depend on how the text ends
            return self._memory.write(line, options.piece)
        return self._spaced_pieces(line, options.piece)

    def _spaced_pieces(self, line: Generation, piece: int) -> Iterator[str]:
        """Yields tokens that are written after all that was read, and remembers how they end."""
        line.pen.follow(self._last)
        for text in self._memory.write(line, piece):
            self._remember_end(line)
            yield text
        self._remember_end(line)

    def _remember_end(self, line: Generation) -> None:
        """Remembers the last symbol that was read of what is written, which may be of a stop string."""
        if line.pen.last is not None:
            self._last = self._vocabulary.decode([line.pen.last])


def _unpickle(model: SessionModel, data: bytes) -> Session:
    return model.continue_session(SavedSession.from_bytes(Path("the pickle"), data))


def training_followers(model: SessionModel, options: GenerationOptions) -> Followers | None:
    """Returns the index that `novel` needs to write without copies, if it is asked for."""
    index = model.find_index() if options.sampling.novel else None
    return None if index is None else index.suffixes


def _row(values: Float32s) -> Float32s:
    """Returns the only row of an array, (H,), as a copy."""
    row: Float32s = values[0].copy()
    return row
