"""What a session remembers of its text, and how it is saved.

Its file is a safetensors file of the memory, with JSON in its header, bound to one checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scriven import strict_json
from scriven.arguments import check_path
from scriven.arrays import Float32s, Float64s, Ids, State
from scriven.errors import InputError, UsageError
from scriven.inference.adaptive_mixture import MixedContext, has_ongoing_counts
from scriven.inference.context import LEARNED, RULE, AdaptiveContext, Context, are_ids
from scriven.inference.generation import Generation, Memory, generate
from scriven.inference.predictor import Predictor, check_adaptive
from scriven.inference.surprisal import check_finite, check_scored, surprisals
from scriven.runs.checkpoints import SHA256
from scriven.runs.tensors import HEADER_LIMIT, decode, encode, finite, read_checked
from scriven.safe_files import replace_file

if TYPE_CHECKING:
    from scriven.inference.adaptive_mixture import AnyReader

FORMAT: Literal[1] = 1
KEY = "scriven_session"  # of the JSON in the header


def _names_session(path: Path) -> bool:
    """Whether the beginning of a file, where a header would be, has the key of a session. Reads no more than that."""
    with path.open("rb") as file:
        return KEY.encode() in file.read(HEADER_LIMIT)


class TextMemory(Memory):
    """The memory of a model with fixed weights."""

    adaptive = False

    def __init__(self, predictor: Predictor, start: Context, context: Context | None = None) -> None:
        """Begins at `start`, the context before any text, unless another `context` is given."""
        super().__init__(start if context is None else context)
        self._predictor, self._start = predictor, start

    @property
    def begun(self) -> bool:
        """Whether any text was read or written."""
        return self.context is not self._start

    @property
    def state(self) -> State | None:
        """The recurrent state after the text."""
        return self.context.state

    def fork(self) -> TextMemory:
        """Returns a memory of the same text that continues on its own."""
        return TextMemory(self._predictor, self._start, self.context)

    def probabilities(self, *, writing: bool = False) -> Float64s:
        """Returns the probabilities (V,) of the next symbol, in the order of the ids, to read or to write by."""
        logits = self._predictor.next_logits(self.context, writing=writing)[0].astype(np.float64)
        weights: Float64s = np.exp(logits - logits.max())
        weights /= weights.sum()
        return weights

    def read(self, ids: Ids) -> None:
        """Reads ids (T,)."""
        self.context = self._predictor.read(self.context, ids[:, None])

    def score(self, ids: Ids) -> Float64s:
        """Reads ids (T,) and returns the nats (T,) of each. Raises InputError if one is not finite."""
        before, costs = self.context, [np.empty(0)]
        for piece in check_scored(surprisals(self._predictor, [ids], before)):
            costs.append(piece.nats)
            self.context = piece.context
        if self._predictor.window:
            self.context = self._predictor.read(before, ids[:, None])
        return np.concatenate(costs)

    def write(self, line: Generation, piece: int) -> Iterator[str]:
        """Writes a text, and yields it in pieces of at most `piece` symbols."""
        return generate(self._predictor, self, line, piece)


class AdaptiveMemory(TextMemory):
    """The memory of a model that learns from what it reads, but not from what it writes."""

    adaptive = True
    context: AdaptiveContext

    def __init__(self, reader: AnyReader, start: AdaptiveContext, context: AdaptiveContext | None = None) -> None:
        """Begins at `start`, the context before any text, unless another `context` is given."""
        super().__init__(reader.predictor, start, context)
        self._reader, self._first = reader, start
        self._shared = True  # whether others may have the context

    @property
    def state(self) -> State | None:
        """The recurrent state of the network after the text."""
        return self._reader.state_after(self.context)

    def fork(self) -> AdaptiveMemory:
        """Returns a memory of the same text that continues on its own."""
        self._shared = True
        return AdaptiveMemory(self._reader, self._first, self.context)

    def probabilities(self, *, writing: bool = False) -> Float64s:
        """Returns the probabilities (V,) of the next symbol, in the order of the ids.

        Raises UsageError for those to write by.
        """
        if writing:
            raise UsageError("a session that learns has the probabilities that it reads by, and no others")
        ready = self._reader.ready(self.context, reuse=not self._shared)
        if self.begun:
            self.context, self._shared = ready, False
        return self._reader.probabilities(ready)

    def read(self, ids: Ids) -> None:
        """Reads ids (T,) and learns from them."""
        self._learn(ids)

    def score(self, ids: Ids) -> Float64s:
        """Reads ids (T,), learns from each after it was scored, and returns the nats (T,) of each.

        Raises InputError if one is not finite.
        """
        nats = self._learn(ids)
        check_finite(nats)
        return nats

    def _learn(self, ids: Ids) -> Float64s:
        if not len(ids):
            return np.empty(0)
        nats, _, self.context = self._reader.read(self.context, ids, reuse=not self._shared)
        self._shared = False
        return nats

    def write(self, line: Generation, piece: int) -> Iterator[str]:
        """Writes a text with the network that learned, and yields it in pieces of at most `piece` symbols."""
        before = self._reader.settle(self.context)
        paused = self._reader.pause(before)
        line.keep = True
        try:
            for text in generate(
                self._reader.writer(paused), Memory(Context(paused.logits, paused.state)), line, piece
            ):
                self._add(before, line)
                yield text
        finally:
            self._add(before, line)

    def _add(self, before: AdaptiveContext, line: Generation) -> None:
        if line.written:
            self.context = replace(before, written=np.concatenate(line.written))


class Origin(BaseModel):
    """The checkpoint that a model was loaded from, and how it was loaded."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    run: str
    step: int = Field(ge=0)
    sha256: str = Field(pattern=SHA256)  # of the file with the weights
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "fp32", "bf16", "int8"]
    counts: Literal["auto"] | None = None  # whether the network was mixed with counts
    write_order: int | None = Field(default=None, ge=1)  # if it was not the usual one

    @property
    def mixed(self) -> str:
        """Says whether the network was mixed with counts."""
        return "with counts" if self.counts else "without counts"


def require_origin(origin: Origin | None) -> Origin:
    """Returns the origin of a model. Raises UsageError if it has none, and so cannot be found again."""
    if origin is None:
        raise UsageError("the model belongs to no run; only models from scriven.load can be saved and pickled")
    return origin


class _SessionHeader(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal[1]
    origin: Origin
    begun: bool  # whether any text was read or written
    random: dict[str, Any]  # the state of numpy's PCG64
    adaptive: dict[str, float] | None = None  # the rule of a session that learns while it reads
    inside: Literal[False] | None = None  # of tokens, if the text did not end inside of a line


@dataclass(frozen=True)
class SavedSession:
    """A session without its model: the memory of the text, and the generator that draws symbols.

    `inside` says whether a token that comes next needs a space before it.
    """

    origin: Origin
    context: Context  # of one row
    random: np.random.Generator
    begun: bool
    inside: bool = True

    def to_bytes(self) -> bytes:
        """Returns the content of the file."""
        context, random = self.context, self.random.bit_generator.state
        arrays: dict[str, npt.NDArray[Any]] = {"logits": context.logits}
        for depth, layer in enumerate(context.state or ()):
            arrays |= {f"state.{depth}.{part}": value for part, value in enumerate(layer)}
        if context.recent is not None:
            arrays["recent"] = context.recent
        rule = None
        if isinstance(context, AdaptiveContext):
            rule = asdict(RULE)
            arrays |= context.to_arrays()
        header = _SessionHeader(
            format=FORMAT,
            origin=self.origin,
            begun=self.begun,
            random=dict(random),
            adaptive=rule,
            inside=None if self.inside else False,
        )
        return b"".join(encode(arrays, {KEY: header.model_dump_json(exclude_none=True)}))

    def write(self, path: str | Path) -> None:
        """Writes the file, whole or not at all. Raises InputError if it cannot be written."""
        place = _path(path)
        try:
            replace_file(place, self.to_bytes())
        except OSError as error:
            raise InputError(f"cannot write {place}: {error.strerror}; choose another place") from None

    @classmethod
    def read(cls, path: str | Path) -> SavedSession:
        """Reads the session in a file. Raises InputError if it cannot be read, or is not a session."""
        place = _path(path)
        try:
            data = read_checked(place)
        except InputError:
            if place.is_file() and not _names_session(place):  # of another kind, rather than damaged
                raise InputError(f"{place} is not a session that Scriven saved; give one that is") from None
            raise
        return cls.from_bytes(place, data)

    @classmethod
    def from_bytes(cls, name: Path, data: bytes) -> SavedSession:
        """Returns the session in the content of a file. Raises InputError, with `name`, if it is not one."""
        arrays, random = decode(name, data), np.random.default_rng()
        try:
            metadata = strict_json.parse(data[8 : 8 + int.from_bytes(data[:8], "little")].decode())["__metadata__"]
            header = _SessionHeader.model_validate(strict_json.parse(metadata[KEY]))
            random.bit_generator.state = header.random
            if header.adaptive not in (None, asdict(RULE)):
                raise InputError(
                    f"{name} learned while it read by another rule than this version of Scriven has; begin another "
                    "session"
                )
            context = _context_of(arrays, adaptive=header.adaptive is not None)
        except (KeyError, TypeError, ValueError, OverflowError, ValidationError):
            raise InputError(f"{name} is not a session that Scriven saved; save it again") from None
        return cls(header.origin, context, random, header.begun, inside=header.inside is None)

    def check(self, predictor: Predictor, loaded: Origin) -> Context:
        """Returns the context. Raises InputError if the session belongs to another model."""
        origin, symbols = self.origin, predictor.vocabulary.size
        shapes = [tuple(part.shape for part in layer) for layer in predictor.zero_state(1)]
        there = self.context.state and [tuple(part.shape for part in layer) for layer in self.context.state]
        same = self.context.logits.shape == (1, symbols) and there in (None, shapes)
        if origin.sha256 != loaded.sha256 or not same:
            raise InputError(
                f"the session is of other weights, those of {origin.run} at step {origin.step:,} when it was saved; "
                "load that checkpoint, or begin another session"
            )
        if origin.counts != loaded.counts:
            raise InputError(
                f"the session was saved {origin.mixed}, and the model was loaded {loaded.mixed}; load it in the same "
                "way, where there is native code, or begin another session"
            )
        if not isinstance(self.context, AdaptiveContext) and not _is_recent(self.context, predictor):
            raise InputError("the session is damaged: its last characters are not this model's; begin another one")
        if isinstance(self.context, AdaptiveContext):
            check_adaptive(predictor)
            if isinstance(self.context, MixedContext) != has_ongoing_counts(predictor):
                raise InputError(
                    "the session learned while it read without the counts that its model is mixed with, as in earlier "
                    "versions of Scriven; begin another one"
                )
            if not self.context.fits(predictor.learned_sizes, predictor.vocabulary):
                raise InputError("the session is damaged: what it learned is not of this model; begin another one")
        return self.context


def _is_recent(context: Context, predictor: Predictor) -> bool:
    """Whether the last characters of a context are those that a predictor would remember, in number and values.

    Nothing else of a context says how many there are, and batches rely on it.
    """
    recent, alone = context.recent, predictor.is_counts_alone
    if not (predictor.remembered and (alone or context.state is not None)):
        return recent is None
    if recent is None or recent.ndim != 2 or recent.shape[1] != 1:
        return False
    least = 0 if alone and not len(predictor.opening) else 1  # counts alone have no state that says if any was read
    return least <= len(recent) <= predictor.remembered and are_ids(recent, predictor.vocabulary.size)


def _context_of(arrays: dict[str, npt.NDArray[Any]], *, adaptive: bool) -> Context:
    """Returns the context in a file's arrays. Raises ValueError or KeyError if they are not one."""
    learned = {name: arrays.pop(name) for name in [*arrays] if adaptive and name.startswith(LEARNED)}
    logits, recent = arrays.pop("logits"), arrays.pop("recent", None)
    layers: dict[int, dict[int, Float32s]] = {}
    for name, value in arrays.items():
        _, depth, part = name.split(".")
        layers.setdefault(int(depth), {})[int(part)] = value
    state = tuple(tuple(layers[depth][part] for part in range(len(layers[depth]))) for depth in range(len(layers)))
    floats = [logits, *(part for layer in state for part in layer)]
    if not all(each.dtype == np.float32 and finite(each) for each in floats):
        raise ValueError("its values are not finite numbers in fp32")
    if recent is not None and recent.dtype != np.int64:
        raise ValueError("its ids are no whole numbers")
    context = Context(logits, state or None, recent)
    if not adaptive:
        return context
    kind = MixedContext if f"{LEARNED}history" in learned else AdaptiveContext
    return kind.of_arrays(context, learned)


def _path(value: str | Path) -> Path:
    path = check_path("path", value)
    if path is None:
        raise UsageError("path is None; give the name of a file, a str or a Path")
    return path
